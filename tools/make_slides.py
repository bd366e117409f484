"""Slides for two class hours, as pages that ask no host for anything: `make slides`.

    python tools/make_slides.py build/node_modules/reveal.js        # writes build/slides/*.html

The texts are book/slides/*.md: slides between lines of `---`, notes for the teacher after `Note:`, figures
(`figure:NAME` is drawn here, `results:FILE` is read) and numbers in `{{...}}`, which are read from results/.
"""

import argparse
import base64
import html
import io
import re
import statistics
from pathlib import Path

import torch
from markdown_it import MarkdownIt

from mamlcourse import comparison, load_characters, schematics
from mamlcourse.figures import chart, episode_figure
from mamlcourse.records import origin, read_json
from mamlcourse.stats import seeds_and_tasks_ci, verdict
from mamlcourse.styles import colour_of, title_of
from mamlcourse.tasks import CharacterTasks, SinusoidTasks

ROOT = Path(__file__).resolve().parents[1]
DECKS = sorted((ROOT / "book" / "slides").glob("*.md"))
RUNGS = ("pixels", "untrained", "from scratch", "classifier", "protonet", "maml", "fomaml", "maml++")
STYLE = """
.reveal { font-family: "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif; font-size: 34px; color: #222 }
.reveal h1, .reveal h2 { color: #1B3A57; font-weight: 600; line-height: 1.15; margin-bottom: 0.5em }
.reveal h1 { font-size: 1.9em } .reveal h2 { font-size: 1.4em }
.reveal .slides section { text-align: left; line-height: 1.35 }
.reveal p { margin: 0.6em 0 } .reveal em { font-style: italic } .reveal strong { font-weight: 700 }
.reveal sub { vertical-align: sub; font-size: 0.6em; font-style: normal }
.reveal img { display: block; margin: 0.3em auto; height: 440px; max-width: 100%; object-fit: contain }
.reveal ul { margin-left: 1em } .reveal li { margin: 0.35em 0 }
.reveal pre, .reveal code { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; background: #F2F2F2 }
.reveal pre { font-size: 0.66em; line-height: 1.4; padding: 0.8em 1em; margin: 0.6em 0; border-radius: 6px }
.reveal p code, .reveal li code { font-size: 0.8em; padding: 0 0.2em }
.reveal .small { font-size: 0.75em }
.reveal table { font-size: 0.62em; margin: 0.4em 0; white-space: nowrap } .reveal th { font-weight: 600 }
.reveal td, .reveal th { padding: 0.35em 0.6em; border-bottom: 1px solid #CCC }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
{scripts}
<script>Reveal.initialize({{hash: true, slideNumber: "c/t", transition: "none", width: 1120, height: 680,
plugins: [RevealNotes]}});</script>
</body>
</html>
"""


def ladder():
    """(The record, {method: accuracies by seed})."""
    record, by_method = read_json(ROOT / "results" / "ladder.json"), {}
    for row in record["rows"]:
        by_method.setdefault(row["method"], []).append(row["task_accuracies"])
    return record, by_method


def numbers() -> dict[str, str]:
    """What stands in `{{...}}`."""
    record = read_json(ROOT / "results" / "equal-search-test.json")
    heading, *rows = comparison.rows(record)
    found = {
        "names": " | ".join(heading[1:]),
        "rules": "|".join("---" for _ in heading[1:]),
        "seeds": len(record["seeds"]),
        "eval_tasks": record["eval_tasks"],
        "train_tasks": record["train_tasks"],
        "origin": origin(record),
        "margin": f"{100 * comparison.MARGIN:g}",
        # Its first sentence is about the margin.
        "recommendation": "\n".join(f"- {said}" for said in comparison.recommendation(record).split(". ")[1:]),
    }
    for title, *values in rows:
        found[f"row: {title}"] = " | ".join(values)
        found |= {f"{title}: {name}": value for name, value in zip(heading[1:], values)}
    for pair in (("maml", "fomaml"), ("maml++", "maml")):  # the claim: the first is more accurate
        difference = comparison.paired_difference(record, *pair)
        found[f"verdict: {', '.join(map(title_of, pair))}"] = verdict(*difference)
    record, by_method = ladder()
    found |= {"ladder eval_tasks": record["eval_tasks"], "ladder seeds": len(record["seeds"])}
    found["ladder origin"] = origin(record)
    for name, by_seed in by_method.items():
        found[f"ladder: {name}"] = "{:.0f} ± {:.0f}".format(*percent(by_seed))
    return {name: str(value) for name, value in found.items()}


def percent(by_seed):
    """(Mean accuracy, half its 95% confidence interval over seeds and tasks), in %."""
    return 100 * statistics.fmean(map(statistics.fmean, by_seed)), 100 * seeds_and_tasks_ci(by_seed)


def episode():
    tasks = CharacterTasks(load_characters("glyphs").split().test, ways=5, shots=1, queries=6, seed=3)
    return episode_figure(tasks.batch(0))


def waves():
    x = torch.linspace(-5, 5, 200)
    tasks = SinusoidTasks(tasks_per_batch=400, seed=1)
    amplitudes, phases = (part.reshape(-1, 1) for part in tasks.waves(0))
    y = amplitudes * torch.sin(x - phases)
    figure, axes = chart("Four tasks, and the mean of 400", "x", "y", (7.5, 3.6))
    for one in y[:4]:
        axes.plot(x, one, color="#888888", linewidth=1.2)
    axes.plot(x, y.mean(0), color="#1B3A57", linewidth=2.5, label="mean of 400 tasks")
    axes.legend(loc="upper right", fontsize=8)
    return figure


def rungs():
    _, by_method = ladder()
    figure, axes = chart(
        "Query accuracy on unseen alphabets", "accuracy (%), 95% CI over seeds and tasks", "", (8, 4.2)
    )
    for place, name in enumerate(RUNGS):
        mean, half_width = percent(by_method[name])
        axes.barh(place, mean, xerr=half_width, color=colour_of(name), capsize=3)
        axes.text(mean + half_width + 1, place, f"{mean:.0f}", va="center", fontsize=9)
    axes.axvline(20, color="#888888", linestyle=":", label="chance")
    axes.set_yticks(range(len(RUNGS)), map(title_of, RUNGS))
    axes.set_xlim(0, 105)
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)
    return figure


FIGURES = {
    "episode": episode,
    "waves": waves,
    "ladder": rungs,
    "two_loops": schematics.two_loops,
    "through_the_update": schematics.through_the_update,
    "first_order": schematics.first_order,
    "multi_step_loss": schematics.multi_step_loss,
    "learned_learning_rates": schematics.learned_learning_rates,
}


def image(where: str) -> str:
    """The address of an image, which holds the image itself."""
    kind, name = where.split(":")
    if kind == "results":
        content = (ROOT / "results" / name).read_bytes()
    else:
        file = io.BytesIO()
        FIGURES[name]().savefig(file, format="png", dpi=160)
        content = file.getvalue()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{\{(.+?)\}\}", lambda slot: values[slot[1]], text)


def slides(text: str) -> str:
    """The slides of a deck as reveal.js takes them."""
    markdown, pages = MarkdownIt("commonmark", {"html": True}).enable("table"), []
    for slide in re.split(r"^---$", text, flags=re.MULTILINE):
        shown, _, note = slide.partition("\nNote: ")
        body = re.sub(r'src="((?:figure|results):[^"]+)"', lambda at: f'src="{image(at[1])}"', markdown.render(shown))
        aside = f'<aside class="notes">{html.escape(note.strip())}</aside>' if note else ""
        pages.append(f"<section>\n{body}{aside}</section>")
    return "\n".join(pages)


def page(path: Path, reveal: Path, values: dict[str, str]) -> str:
    text = filled(path.read_text(encoding="utf-8"), values)
    css = [(reveal / "dist" / name).read_text(encoding="utf-8") for name in ("reset.css", "reveal.css")]
    scripts = [reveal / "dist" / "reveal.js", reveal / "dist" / "plugin" / "notes.js"]
    return PAGE.format(
        title=html.escape(text.split("\n", 1)[0].lstrip("# ")),
        css="\n".join([*css, STYLE]),
        slides=slides(text),
        scripts="\n".join(f"<script>{script.read_text(encoding='utf-8')}</script>" for script in scripts),
    )


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reveal", type=Path, help="the folder of the npm package reveal.js")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "slides")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    values = numbers()
    for path in DECKS:
        target = given.out / f"{path.stem}.html"
        target.write_text(page(path, given.reveal, values), encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
