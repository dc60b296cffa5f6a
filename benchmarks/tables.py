"""Text tables with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """Lay out a table.

    Args:
        header: Names of the columns.
        rows: Cells, as many as columns in each row.
        sides: For each column "l" or "r": the side its cells keep to.

    Returns:
        Lines without trailing blanks, columns two blanks apart.
    """
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(cells, widths, sides, strict=True)
        ).rstrip()
        for cells in table
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """Lay out a table of Markdown, its source aligned; the arguments are those of `aligned`."""
    rule = ["-" * 3 if side == "l" else "--:" for side in sides]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (header, rule, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        [
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(line, widths, sides, strict=True)
        ]
        for line in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
