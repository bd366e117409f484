"""nbgrader's settings for this course folder: run its commands here. `make assignment` leaves your changes alone."""

import os
import sys
from pathlib import Path

from nbgrader.converters import Autograde, GenerateFeedback

from mamlcourse import classroom

COURSE = Path(__file__).parent
# nbgrader calls alembic by name, which lies beside this Python.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
os.environ["MAMLCOURSE_PROGRESS"] = "off"  # autograding is no one's own progress
os.environ.setdefault("OMP_NUM_THREADS", "1")

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "mamlcourse"  # a name of its own for each section, with a course folder of its own
c.Exchange.root = str(COURSE / "exchange")  # for a class: a folder that all accounts may read and write
c.ExecutePreprocessor.timeout = 120  # seconds for a cell; one that never ends is interrupted then
c.ClearSolutions.code_stub = {"python": "...  # YOUR CODE HERE"}
c.FileNameCollectorPlugin.named_regexp = classroom.PLATFORM_NAMES  # zip_collect: Moodle's and Canvas's file names
c.ExportApp.plugin_class = classroom.PointsByPart

# A sentence above the error of a hidden test, for you. Feedback shows neither the test nor where it failed.
c.Autograde.autograde_preprocessors = [*Autograde.autograde_preprocessors.default(), classroom.SayWhatFailed]
c.GenerateFeedback.preprocessors = [*GenerateFeedback.preprocessors.default(), classroom.WithoutHiddenTests]

# Feedback and Formgrader draw formulas without a script from another host.
c.HTMLExporter.preprocessors = [classroom.Formulas]
os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(COURSE / "jupyter"), os.environ.get("JUPYTER_PATH")]))
