"""The page that people open: `report.html`, one file of what a finished run's folder holds.

`run_content` reads the folder, `sections` is a table of what the page shows, `page` renders it. Jinja2 writes the page
because it escapes by default and torch has installed it already; matplotlib draws the charts because a static SVG takes
a few KB, where a plotting script would take 4 MB.
"""
