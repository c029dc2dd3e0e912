"""How often intervals of the difference of two settings cover the truth, in simulated comparisons."""

from __future__ import annotations

from docs.generate.measurement import file_of, load

_INTERVALS = {
    "crossed": "seeds and images, Student's t (the report's)",
    "bootstrap": "hierarchical bootstrap (in `report_differences.csv`)",
    "seeds": "Student's t over the seeds' accuracies alone",
    "images": "bootstrap over the images alone",
}


def coverage() -> str:
    """Return a table of the share of 95% intervals that cover the true difference, for each number of paired seeds."""
    found = load("seed_intervals_cpu")
    seeds = [name for name in found["large"] if name.endswith(", paired")]
    rows = [
        f"| Interval | {' | '.join(name.removesuffix(', paired') for name in seeds)} |",
        "| --- |" + " --- |" * len(seeds),
    ]
    for kind, title in _INTERVALS.items():
        cells = [f"{found['large'][n][kind]['covers']:.0%} ({found['none'][n][kind]['covers']:.0%})" for n in seeds]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    spread = found["large"]["spread_of_seeds_points"]
    introduction = (
        f"In {found['repetitions']} simulated comparisons of each case, on {found['images']:,} images with pairs of"
        f" seeds, so many 95% intervals cover the true difference, where accuracy varies by {spread:g} points from seed"
        f" to seed (and where it does not vary); {file_of('seed_intervals_cpu')}:"
    )
    return introduction + "\n\n" + "\n".join(rows)
