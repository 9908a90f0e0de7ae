"""Which form a task takes on a backbone."""

from __future__ import annotations

from peftbench.backbones.families import FAMILIES
from peftbench.backbones.loading import model_type
from peftbench.config import RunConfig
from peftbench.errors import ConfigurationError
from peftbench.forms.base import Form
from peftbench.forms.choice import Choice
from peftbench.forms.classification import Classification
from peftbench.forms.language_modelling import LanguageModelling
from peftbench.forms.spans import Spans
from peftbench.forms.text import Text
from peftbench.tasks.base import TaskSpec
from peftbench.tasks.registry import task_spec

_BY_HEAD: dict[str, type[Form]] = {"classify": Classification, "choose": Choice, "spans": Spans}


def form_class(config: RunConfig) -> type[Form]:
    """The configured form; of `auto` a head on encoders, and text in, text out on what writes text.

    Raises:
        ConfigurationError: the backbone or the task does not have it.
    """
    spec, asked = task_spec(config.task.name), config.task.form
    kind = model_type(config.model)
    stacks = {stack.kind for stack in FAMILIES[kind].stacks} if kind in FAMILIES else set()  # type: ignore[index]
    writes = "decoder" in stacks
    if asked == "auto":
        asked = "text" if (writes and spec.text is not None) or spec.kind not in _BY_HEAD else "head"
    if asked == "head":
        if spec.kind not in _BY_HEAD:
            raise ConfigurationError(f"task.form=head: {spec.name} asks for a text; leave task.form=auto")
        return _BY_HEAD[spec.kind]
    if stacks and not writes:
        raise ConfigurationError(
            f"task {spec.name} as text needs a model that writes text, and {config.model.name} ({kind}) is an encoder;"
            " take a decoder or an encoder-decoder such as model=gpt2, model=smollm2 or model=t5_base"
        )
    return _text_form(spec)


def _text_form(spec: TaskSpec) -> type[Form]:
    if spec.kind == "lm":
        return LanguageModelling
    if spec.text is None:
        raise ConfigurationError(f"task.form=text: {spec.name} has no text form; use task.form=head")
    return Text
