"""What the scaling commands found: the released coefficients against the rule, and studies on small tasks."""

from __future__ import annotations

from docs.generate.measurement import duration, file_of, load

STUDIES = {
    "scaling_search_digits": "`scale search` on digits at 44 px, 40 steps",
    "scaling_search_digits_200": "`scale search` on digits, 200 steps",
    "scaling_search_cifar10": "`scale search` on CIFAR-10 (JPEG), halved after 200 steps",
    "scaling_search_cifar10_single": "`scale search --spacing 1 0.4 0.4`: depth, width or resolution alone, 600 steps",
    "sweep_digits_lite0": "`scale sweep --figure 8` for `lite0` on digits, 300 steps",
    "evolve_digits_lite0": "`scale evolve` for `lite0` on digits, 40 steps",
}


def rule() -> str:
    """Return a table of the released coefficients beside those of the paper's rule."""
    rows = [
        "| | phi | depth | width | pixels | billion multiply-adds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in load("scaling_rule")["departures"]:
        cells = (
            row["backbone"],
            f"{row['phi']:g}",
            f"{row['depth']:.1f} / {row['rule_depth']:.2f}",
            f"{row['width']:.1f} / {row['rule_width']:.2f}",
            f"{row['resolution']} / {row['rule_resolution']}",
            f"{row['macs'] / 1e9:.2f} / {row['rule_macs'] / 1e9:.2f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def studies() -> str:
    """Return what each study concluded, in its own words."""
    parts = []
    for name, title in STUDIES.items():
        study = load(name)
        seeds, took = len(study["options"]["seeds"]), duration(study["processor_seconds"])
        words = f"{len(study['networks'])} networks, {seeds} seeds, {took} of processor time, {file_of(name)}"
        parts.append(f"**{title}** ({words})\n\n" + "\n".join(f"- {line}" for line in study["conclusions"]))
    return "\n\n".join(parts)
