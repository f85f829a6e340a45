"""The histogram plot of a split, read from its matplotlib figure."""

from io import BytesIO
from itertools import combinations
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from bcnet_core.annotations.split import plot_histogram

MANIFEST: dict[str, Any] = {
    "source": {"file": "instances_$x^^$.json"},
    "rule": {"measure": "min"},
    "histogram": {
        "edges": [0.0, 0.25, 0.5, 1.0],
        "source": {"instances": [9000, 700, 50, 30], "images": [40, 30, 20, 1]},
        "split": {"instances": [90, 70, 40, 30], "images": [0, 7, 20, 1]},
    },
}


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure of the plot of `MANIFEST`."""
    drawn: list[Figure] = []

    def remembered(**options: Any) -> Figure:
        drawn.append(Figure(**options))
        return drawn[0]

    monkeypatch.setattr("matplotlib.figure.Figure", remembered)
    plot_histogram(MANIFEST)
    return drawn[0]


def heights(axes: Axes) -> list[list[float]]:
    return [[bar.get_height() for bar in bars] for bars in axes.containers]  # type: ignore[attr-defined]


def test_the_bars_are_the_histograms(figure: Figure) -> None:
    instances, images = figure.axes
    assert heights(instances) == [[9000, 700, 50, 30], [90, 70, 40, 30]]
    assert heights(images) == [[40, 30, 20, 1], [0, 7, 20, 1]]
    assert instances.get_position().x1 < images.get_position().x0


def test_source_and_split_are_side_by_side_in_their_colors(figure: Figure) -> None:
    for axes in figure.axes:
        source, split = axes.containers
        for number, (left, right) in enumerate(zip(source, split, strict=True)):
            assert left.get_x() + left.get_width() == pytest.approx(number) == right.get_x()  # the tick between them
            assert right.get_x() + right.get_width() < number + 0.5, "bars of the next bin begin later"
            assert to_rgb(left.get_facecolor()) == to_rgb("#bbbbbb")
            assert to_rgb(right.get_facecolor()) == to_rgb("#0077bb")
        assert axes.get_xticks().tolist() == [0, 1, 2, 3]


def test_titles_labels_and_legend(figure: Figure) -> None:
    instances, images = figure.axes
    assert instances.get_title() == "9,780 instances, 230 in the split"
    assert images.get_title() == "91 images, 28 in the split"
    assert (instances.get_ylabel(), images.get_ylabel()) == ("instances", "images")
    assert instances.get_xlabel() == "occlusion (min)"
    assert images.get_xlabel() == "occlusion (min) of the most occluded instance"
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0-0.25", "0.25-0.5", "0.5-1"]
    assert figure.get_suptitle() == "Occlusion of instances and images: instances_$x^^$.json"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["source", "split"]
    assert legend.get_window_extent().y1 < min(axes.get_window_extent().y0 for axes in figure.axes)


def test_no_text_is_cut_off_or_covered(figure: Figure) -> None:
    texts = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    texts += [*figure.texts, *figure.legends[0].get_texts()]
    frames = [text.get_window_extent() for text in texts] + [axes.get_window_extent() for axes in figure.axes]
    assert len(frames) == 11
    assert not [pair for pair in combinations(frames, 2) if pair[0].overlaps(pair[1])]
    frames += [label.get_window_extent() for axes in figure.axes for label in axes.get_xticklabels()]
    for frame in frames:
        assert 0 <= frame.x0 < frame.x1 <= figure.bbox.width and 0 <= frame.y0 < frame.y1 <= figure.bbox.height


def test_the_png_is_reproducible() -> None:
    with Image.open(BytesIO(plot_histogram(MANIFEST))) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000 and "Software" not in picture.info
    assert plot_histogram(MANIFEST) == plot_histogram(MANIFEST)
