// Makes what is in an element what an HTML text says, changing as little as possible: focus, scrolling and what is
// opened stay. Children are matched by id or data-key, else by place. The text comes from our own templates, which
// escape all that users named.
export function morph(element, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  children(element, template.content);
}

const name = (node) => (node.nodeType === 1 ? node.id || node.dataset.key || "" : "");

function children(old, fresh) {
  const known = new Map();
  for (const child of old.children) if (name(child)) known.set(child.tagName + name(child), child);
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = name(wanted);
    let match = key ? known.get(wanted.tagName + key) : null;
    if (!match && place && !name(place) && alike(place, wanted) && !key) match = place;
    if (match) {
      if (match !== place) old.insertBefore(match, place);
      else place = place.nextSibling;
      update(match, wanted);
      known.delete(wanted.tagName + key);
    } else {
      old.insertBefore(wanted, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName;

function update(old, fresh) {
  if (old.nodeType !== 1) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old === document.activeElement && /^(INPUT|SELECT|TEXTAREA)$/.test(old.tagName)) return;
  if (old.tagName === "TIME" && old.dateTime === fresh.dateTime) return;
  if (old.tagName === "TH" && old.querySelector("button")) return;
  for (const { name: attribute, value } of [...fresh.attributes]) {
    if (old.getAttribute(attribute) !== value) old.setAttribute(attribute, value);
  }
  for (const { name: attribute } of [...old.attributes]) {
    if (!fresh.hasAttribute(attribute) && attribute !== "open" && attribute !== "title") old.removeAttribute(attribute);
  }
  if (old.tagName === "TIME") old.removeAttribute("title");
  children(old, fresh);
}
