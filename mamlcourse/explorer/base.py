"""What all widgets share: described pictures, a line of words, named numbers, and callbacks whose errors are seen.

A figure reaches the browser as PNG in an `ipywidgets.Image`, which works in every front end. While a slider is
dragged, front ends send its latest value as soon as the one before was handled. Each event is handled from
beginning to end under a lock, and draws the state that the controls are in *then*: the last figure shows the last
state, in whatever order events arrive.
"""

from __future__ import annotations

import functools
import html
import struct
import threading

import ipywidgets as widgets
from traitlets import Unicode, observe

from .figures import SHARPNESS


class DescribedImage(widgets.Image):
    """A PNG image, sharp on screens of `SHARPNESS` pixels to one of CSS, with a text for those who cannot see it.

    ipywidgets has no `alt`; its front end puts the tooltip on the element as its accessible name, but only for widgets
    with a (here empty) description.
    """

    description = Unicode("").tag(sync=True)

    def __init__(self, **layout):
        # The front end gives images margins of 2 pixels on all sides, with which one of 100% would be too wide.
        usual = dict(max_width="100%", height="auto", margin="2px 0", align_self="flex-start")
        super().__init__(format="png", layout=usual | layout)

    def show(self, png: bytes, alt: str) -> None:
        """Show an image, which is as wide in CSS's pixels as its own divided by `SHARPNESS`."""
        width = f"{struct.unpack('>I', png[16:20])[0] // SHARPNESS}px"  # where every PNG has its width
        if self.layout.width != width:
            self.layout.width = width
        with self.hold_sync():  # one message, so that the browser draws once
            self.value, self.tooltip = png, alt


class Explorer(widgets.VBox):
    """A box of controls and pictures with a line of text that says what is shown."""

    def __init__(self):
        self._lock = threading.RLock()  # JupyterLab runs callbacks in a thread of their own, next to the cells'
        self.status = text()
        super().__init__()

    @observe("children")
    def _act_while_cells_run(self, change) -> None:
        """Let all controls act while a cell keeps the kernel's main thread.

        JupyterLab asks for a thread (a subshell) that is free. ipykernel 7.4 however notes which thread a widget was
        made or changed by, delivers there, and so only after the cell; without its note it does as it is asked.
        """
        for widget in all_in(self):
            if hasattr(widget.comm, "_reply_subshell_for"):
                widget.comm._reply_subshell_for = lambda data, asked_for: asked_for

    def say(self, text: str, role: str = "status") -> None:
        """Show a line of text; screen readers speak it when it changes. An alert has colours for any theme."""
        colour = "color:white;background:#9E1B1B;padding:0 6px;" if role == "alert" else ""
        live = "assertive" if role == "alert" else "polite"
        self.status.value = (
            f'<div role="{role}" aria-live="{live}" style="{colour}line-height:1.4">{html.escape(text)}</div>'
        )

    def say_busy(self, text: str) -> None:
        """Show that something takes a moment. The controls stay enabled: disabling takes the keyboard's focus away."""
        self.say(f"⏳ Working: {text} ...")

    def __repr__(self):
        return f"{type(self).__name__}: needs a running kernel; the figures of this notebook show the same at rest."


def all_in(widget):
    """The widget and all widgets inside."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from all_in(child)


def careful(callback):
    """One callback at a time. An error is shown where the person looks, and goes on to the cell or the log."""

    @functools.wraps(callback)
    def guarded(self, *arguments):
        with self._lock:
            try:
                return callback(self)
            except Exception as error:
                self.say(f"This did not work: {error}", role="alert")
                raise

    return guarded


# Controls. Their tooltip is never None, which the front end would show as "null".


def row(*controls) -> widgets.HBox:
    """Controls beside each other, and below where there is no room."""
    return widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))


def text(value: str = "") -> widgets.HTML:
    """Text with marks of HTML."""
    return widgets.HTML(value, tooltip="")


def number(value, least, most, name: str, tooltip: str = "", step=1):
    """A field for an integer, or for a real number if its bounds are float; its label is its accessible name."""
    kind = widgets.BoundedFloatText if isinstance(least, float) else widgets.BoundedIntText
    look = dict(layout={"width": "auto", "margin": "2px 10px 2px 2px"}, style={"description_width": "initial"})
    return kind(value=value, min=least, max=most, step=step, description=name, tooltip=tooltip or name, **look)


def slider_with_number(value, least, most, name: str, tooltip: str = "", step=1, finest=None) -> tuple:
    """(slider, box of a number field and the slider): the field has the name, the slider is for mouse and eye.

    Front ends round what a slider is set to, so one whose values lie between its steps needs `finest` ones.
    """
    kind = widgets.FloatSlider if isinstance(least, float) else widgets.IntSlider
    slider = kind(
        value=value, min=least, max=most, step=finest or step, readout=False, tooltip=tooltip or name,
        layout={"width": "200px", "margin": "2px 20px 2px 2px"},
    )  # fmt: skip
    field = number(value, least, most, name, tooltip, step)
    field.layout.width = "160px" if isinstance(least, float) else "auto"
    widgets.link((slider, "value"), (field, "value"))
    for bound in ("min", "max"):
        widgets.dlink((slider, bound), (field, bound))
    return slider, widgets.HBox([field, slider])


def button(name: str, tooltip: str = "", **keywords) -> widgets.Button:
    """A button as wide as its name."""
    return widgets.Button(description=name, tooltip=tooltip or name, layout={"width": "auto"}, **keywords)
