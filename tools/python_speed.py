"""How fast this Python is: prints the CPU time, in microseconds, of a little of what servers do.

Run by tools/find-python with every Python that it finds, so it needs nothing but the standard library.
"""

from time import process_time_ns


def work() -> int:
    table: dict[int, tuple[str, ...]] = {}
    first, second = 0, 1
    for turn in range(20_000):
        first, second = second, (first + second) & 0xFFFF
        table[turn & 255] = tuple(f"{first}-{second}".split("-"))
    return sum(len(entry) for entry in table.values())


def cpu_time() -> int:
    began = process_time_ns()
    work()
    return (process_time_ns() - began) // 1000


if __name__ == "__main__":
    print(min(cpu_time() for _ in range(5)))
