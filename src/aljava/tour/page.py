"""The tour as one page that stands by itself: the same content as the terminal, with charts."""

from html import escape

from aljava import charts
from aljava.comparison import shown
from aljava.tour.sections import Section, Step, Tour


def page(tour: Tour) -> str:
    """The page, as HTML: no script, no network, readable in light and dark."""
    table = tour.data.table
    tried = [step.verified for section in tour.sections for step in section.steps if step.verified is not None]
    facts = [
        (f"{table.num_rows:,}", "rows"),
        (f"{table.num_columns:,}", "columns"),
        (charts.size(table.nbytes), "in memory"),
        (f"{sum(map(bool, tried))} of {len(tried)}", "steps verified"),
    ]
    body = (
        f"<h1>A tour of Aljava</h1><p>{escape(tour.data.name)} ({escape(tour.data.origin)}), through all that Aljava "
        "does with a table. Every step was done for real, and what came back was compared with what went in.</p>"
        + charts.facts(facts)
        + charts.callout(tour.advice)
        + "".join(_section(number, section) for number, section in enumerate(tour.sections, start=1))
        + _columns(tour)
    )
    return charts.page(f"A tour of Aljava: {tour.data.name}", body)


def _section(number: int, section: Section) -> str:
    rows = [
        (
            escape(step.name),
            charts.seconds(step.seconds) if step.seconds is not None else "-",
            "no copy" if step.zero_copy else charts.rate(step.gb_per_second) if step.gb_per_second else "-",
            _outcome(step),
            f'<span class="soft">{escape(step.note)}</span>' if not step.error else escape(step.error),
        )
        for step in section.steps
    ]
    figures = charts.table(("step", "time", "rate", "", "what happened"), rows, (1, 2), (25, 9, 11, 11, 44))
    moved = [
        charts.Bar(step.name, step.gb_per_second, charts.rate(step.gb_per_second))
        for step in section.steps
        if step.gb_per_second
    ]
    if section.comparison:
        chart = shown.section(section.comparison)
    elif len(moved) > 1:
        chart = charts.bars("Throughput", moved, label_width=150, width=560)
    else:
        chart = ""
    return (
        f"<section><h2>{number}. {escape(section.name)}</h2>{charts.paragraph(section.about)}{figures}{chart}</section>"
    )


def _outcome(step: Step) -> str:
    if step.verified is None:
        return '<span class="soft">left out</span>'
    return '<span class="good">✓ verified</span>' if step.verified else '<span class="bad">✗ failed</span>'


def _columns(tour: Tour) -> str:
    """The columns one by one, and what the default did with each."""
    table = tour.data.table
    comparison = next((section.comparison for section in tour.sections if section.comparison), None)
    auto = next((it for it in comparison.measured if it.codec == "auto"), None) if comparison else None
    rows = [
        (
            escape(column.name),
            f'<span class="soft">{escape(str(column.type))}</span>',
            f"{values.null_count:,}",
            charts.size(values.nbytes),
            "" if auto is None else "left raw" if column.name in auto.raw_columns else "compressed",
        )
        for column, values in zip(table.schema, table.columns, strict=True)
    ]
    header = ("column", "type", "nulls", "in memory", "by auto")
    return "<section><h2>The table</h2>" + charts.table(header, rows, (2, 3), (28, 28, 14, 15, 15)) + "</section>"
