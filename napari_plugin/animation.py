"""Make the animation of the plugin's README: a scan with a gap, from its plan to the place that is most uncertain.

Run as ``xvfb-run -a -s "-screen 0 1600x1000x24" python napari_plugin/animation.py docs/images/napari.gif``. Each frame
is a picture of the window; waits are cut, so that 20 seconds show what takes a minute.
"""

import io
import sys
from pathlib import Path
from typing import Any

import napari
from napari_medldm import samples
from napari_medldm.compare import FADE, SWIPE
from napari_medldm.engine import ENGINE
from PIL import Image, ImageDraw, ImageFont
from qtpy.QtCore import QPoint
from qtpy.QtTest import QTest
from screenshot import docked, wait

WINDOW = 1120, 700
WIDTH = 840  # pixels of a frame
BAND = 34  # pixels of the text below
NEAR_GAP = slice(54, 70)  # slices of the sample with a gap: fewer take less time
GAP_SLICE = 7  # in the middle of the gap
COLOURS = 64
SIZE = 17  # of the letters
LENGTH_S = 20  # of the whole; how long runs take differs


class Film:
    """Frames with the time that each is shown."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.frames: list[tuple[Image.Image, int]] = []
        self.font = ImageFont.load_default(SIZE)

    def take(self, caption: str, seconds: float, press: Any = None) -> None:
        """Add a picture of the window.

        Parameters
        ----------
        caption : below it
        seconds : that it is shown
        press : Qt widget that is marked as being pressed
        """
        QTest.qWait(150)
        window = self.viewer.window._qt_window
        picture = Image.fromarray(self.viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
        scale = WIDTH / picture.width
        if press is not None:
            middle = press.mapTo(window, QPoint(press.width() // 2, press.height() // 2))
            ratio = picture.width / window.width()
            x, y = middle.x() * ratio, middle.y() * ratio
            ImageDraw.Draw(picture).ellipse((x - 22, y - 22, x + 22, y + 22), outline="#ffb000", width=5)
        small = picture.resize((WIDTH, round(picture.height * scale)), Image.Resampling.LANCZOS)
        frame = Image.new("RGB", (WIDTH, small.height + BAND), "#101418")
        frame.paste(small)
        ImageDraw.Draw(frame).text((12, small.height + 7), caption, fill="white", font=self.font)
        self.frames.append((frame, round(1000 * seconds)))

    def during(self, widget: Any, caption: str, every: int, seconds: float) -> None:
        """Take a picture now and then until a run has ended."""
        number = 0
        while widget.run_now is not None:
            QTest.qWait(100)
            if number % every == 0 and widget.bar.value > 0:
                self.take(caption, seconds)
            number += 1

    def save(self, path: Path) -> None:
        """Write a GIF whose frames share their colours, so that what stands still takes no room."""
        pictures = [frame for frame, _ in self.frames]
        strip = Image.new("RGB", (WIDTH, sum(picture.height for picture in pictures)))
        top = 0
        for picture in pictures:
            strip.paste(picture, (0, top))
            top += picture.height
        palette = strip.quantize(COLOURS, dither=Image.Dither.NONE)
        flat = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
        held = io.BytesIO()
        scale = 1000 * LENGTH_S / sum(ms for _, ms in self.frames)
        shown = [round(scale * ms) for _, ms in self.frames]
        flat[0].save(
            held, "GIF", save_all=True, append_images=flat[1:], duration=shown, loop=0,
            optimize=False,
        )  # fmt: skip
        path.write_bytes(held.getvalue())
        print(f"{path}: {len(flat)} frames, {sum(shown) / 1000:.1f} s, {len(held.getvalue()) / 1e6:.2f} MB")


def opened() -> tuple[Any, Any]:
    """A viewer with the scan, and its dock when it knows the plan."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*WINDOW)
    ((data, arguments, _),) = samples.gap_sample()
    viewer.add_image(data[NEAR_GAP], **arguments)
    widget = docked(viewer, "restore")
    widget.shared["model"].value = "brain-mri-2d-fast"
    widget.refine.value = False
    wait(lambda: "\u2022" in widget.plan.value)
    viewer.dims.set_current_step(0, 3)
    viewer.reset_view()
    return viewer, widget


def main(out: Path) -> None:
    """A scan with a gap: plan, preview, run, compare, doubt, repeat."""
    viewer, widget = opened()
    film = Film(viewer)
    film.take("Open a scan. The dock says what it needs: four slices are missing.", 2.5)
    viewer.dims.set_current_step(0, GAP_SLICE)
    film.take("One of them is on the screen: empty.", 1.5)
    film.take("Preview restores this slice.", 1.0, widget.preview.native)
    widget.run_preview()
    film.during(widget, "The status line says how many planes that takes.", 25, 0.5)
    film.take("The preview. Orange: nobody measured this.", 2.0)
    film.take("Run restores all slices.", 0.8, widget.button.native)
    widget.run()
    film.during(widget, "A bar shows how far it is, and for how long it will go on.", 30, 0.5)
    film.take("The result lies over the scan.", 1.5)
    for share in (0.25, 0.5, 0.75):
        widget.compare.mode.value = SWIPE
        widget.compare.slider.value = share
        film.take("Compare by wiping along a line.", 0.7, widget.compare.slider.native if share == 0.25 else None)
    widget.compare.mode.value = FADE
    widget.compare.slider.value = 1.0
    widget.folds["Results"].expand(animate=False)
    QTest.qWait(200)
    widget.ensureWidgetVisible(widget.look_here)
    film.take("Look where its 90 % intervals are widest: click to go there.", 1.5, widget.look_here)
    widget.viewing.go_to(0)
    film.take("The most uncertain place is in the middle of the window.", 2.0)
    widget.folds["Repeat"].expand(animate=False)
    QTest.qWait(200)
    widget.ensureWidgetVisible(widget.copy_command.native)
    film.take("Copy the run as a command or as Python, to repeat it elsewhere.", 2.0, widget.copy_command.native)
    film.save(out)
    viewer.close()
    ENGINE.unload()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
