// Runs before anything is drawn, so that a dark page never flashes light.
(function () {
  "use strict";
  try {
    const kept = localStorage.getItem("futurebroker-theme");
    if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
  } catch (error) { /* storage may be forbidden; the system's theme is fine */ }
})();
