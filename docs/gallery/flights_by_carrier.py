"""Which airline was late most often? Every flight from New York in 2013, a month a task, added up in a tree."""

from futurebroker import Client
from futurebroker.demo.flights import add_statistics, carrier_statistics, read_month


def statistics_of(month):
    return carrier_statistics(read_month(month))


def main():
    with Client() as client:
        sums = client.map(statistics_of, range(1, 13))
        # Pairs are added as soon as both are there; nothing waits for the slowest month but the last step.
        while len(sums) > 1:
            pairs = [sums[i : i + 2] for i in range(0, len(sums), 2)]
            sums = [client.submit(add_statistics, *pair) for pair in pairs]
        table = sums[0].result()
    table["late share"] = table["late"] / table["arrived"]
    table = table.sort_values("late share", ascending=False)
    print(table[["flights", "late share"]].round(3).to_string())
    print(f"{int(table['flights'].sum()):,} flights; late most often: {table.index[0]}")


if __name__ == "__main__":
    main()
