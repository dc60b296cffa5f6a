"""The gallery shows every density in the plane, and says what the densities say."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import image

from lamina.benchmarks import gallery
from lamina.benchmarks.densities import DENSITIES, REFERENCE_TARGETS, make_density, make_reference_target

DOCS = Path(__file__).resolve().parents[2] / "docs"
PLANAR = [name for name in DENSITIES if make_density(name).dim == 2]
MAX_BYTES = 60_000


def test_page_is_up_to_date() -> None:
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == gallery.gallery_page()


def test_every_target_has_its_entry() -> None:
    page = gallery.gallery_page()
    for target in (*map(make_density, DENSITIES), *map(make_reference_target, REFERENCE_TARGETS)):
        _, entry = page.split(f"\n### {target.name}\n")
        entry = entry.split("\n#")[0]
        assert all(text in entry for text in (target.formula, target.reveals, target.source))
        assert (f"](gallery/{target.name}.png)" in entry) == (target.name in PLANAR)


@pytest.mark.parametrize("name", PLANAR)
def test_every_density_in_the_plane_has_its_picture(name: str) -> None:
    path = DOCS / "gallery" / f"{name}.png"
    assert path.stat().st_size < MAX_BYTES
    assert image.imread(path).std() > 0.05


def test_no_picture_is_left_over() -> None:
    assert {path.stem for path in (DOCS / "gallery").iterdir()} == set(PLANAR)


def test_gallery_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "planar_densities", lambda: [make_density("banana")])
    page, picture = gallery.write_gallery(tmp_path)
    assert page.read_text(encoding="utf-8") == gallery.gallery_page()
    assert picture == tmp_path / "gallery" / "banana.png"
    assert image.imread(picture).shape == image.imread(DOCS / "gallery" / "banana.png").shape
