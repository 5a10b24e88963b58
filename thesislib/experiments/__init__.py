"""What is trained: scales, the sections of the thesis and ours, statements that are tested, experiments of one's own.

Importing any of it makes all sections known, in the order of the chapter.
"""

from thesislib.experiments import thesis  # noqa: F401, I001
from thesislib.experiments import statements  # noqa: F401
from thesislib.experiments import beyond  # noqa: F401
