"""Print the tables of docs/performance.md from the files under results/.

python benchmarks/performance_tables.py
"""

from results_tables import read, table

PLAIN = {
    "published_network": "published",
    "published_network_cached": "published, cached",
    "plain": "plain, our network",
}
H200 = ("sampling-h200-batch-128.json", "sampling-h200.json")  # a cell measured twice: the last file's
H100 = ("sampling-h100.json",)
OURS = {"heavy_only": "heavy only", "sandwich": "sandwich", "light_only": "light only"}


def main():
    """Print all tables."""
    print(speed_table(H200), speed_table(H100), parts_table(), sep="\n\n")


def speed_table(names):
    """Seconds for a sample of every sampler, how many times faster heavy only is, what the sandwich saves."""
    head = ["steps, batch", *PLAIN.values(), *OURS.values(), "heavy only, times published (cached)"]
    head += ["sandwich saves, time", "of its FLOPs' saving", "heavy only, of the matrix peak"]
    cells = {(cell["steps"], cell["batch_size"]): cell for name in names for cell in read(name)["cells"]}
    order = sorted(cells, key=lambda place: (-place[0], place[1]))
    return table(head, [speed_row(cells[place]) for place in order])


def speed_row(cell):
    """One cell of the benchmark."""
    variants, found = cell["variants"], cell["comparison"]
    seconds = [f"{variants[name]['median_seconds_per_sample']:.3g}" if variants.get(name) else "–" for name in PLAIN]
    seconds += [f"{variants[name]['median_seconds_per_sample']:.3g}" for name in OURS]
    faster = found["heavy_only_times_faster_than"]
    cached = faster.get("published_network_cached")
    times = f"{faster['published_network']:.1f}" + (f" ({cached:.1f})" if cached else "")
    saved = f"{found['sandwich_saved_time']:.1%}", f"{found['sandwich_saved_time_over_saved_flops']:.0%}"
    peak = f"{variants['heavy_only']['share_of_matrix_peak']:.0%}"
    return [f"{cell['steps']}, {cell['batch_size']}", *seconds, times, *saved, peak]


def parts_table():
    """Milliseconds of a pass by what its kernels do."""
    cells = read("profile-h200.json")["cells"]
    parts = list(cells[0]["milliseconds_by_part"])
    head = ["model, batch", "pass", *parts, "idle", "of the matrix peak"]
    rows = [
        [
            f"{cell['model']}, {cell['batch_size']}",
            *(f"{value:.3g}" for value in (cell["milliseconds_per_pass"], *cell["milliseconds_by_part"].values())),
            f"{cell['idle_milliseconds']:.2g}",
            f"{cell['share_of_matrix_peak']:.0%}",
        ]
        for cell in cells
    ]
    return table(head, rows)


if __name__ == "__main__":
    main()
