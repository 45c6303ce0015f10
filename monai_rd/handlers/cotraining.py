"""Co-training with a plain `SupervisedTrainer`: a handler that adds a method's loss terms to the trainer's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_rd.finite import NotFiniteError, TermSums, not_finite, refuse_not_finite
from monai_rd.handlers.failing import on_failure
from monai_rd.methods.base import Method, Step, unwrapped
from monai_rd.networks.features import StudentFeatures, TeacherFeatures, from_rows
from monai_rd.networks.levels import LevelReader
from monai_rd.teacher_features import is_unseen, stored_features
from monai_rd.teacher_image import teacher_image

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["CoTrainingHandler", "explain_small_batch"]

_REMEDY = "a smaller --learning_rate is the usual remedy, --amp false another"


class CoTrainingHandler:
    """Runs the frozen teacher and the method in every training step, and adds the method's terms to the loss.

    After the forward pass it collects the student's features (the input of the student's classifier, and the maps that
    the method uses) and the teacher's features: from the batch's key `teacher_features` if they were precomputed,
    otherwise from the teacher. If they are `UNSEEN`, the student learns from the labels alone in this step. The
    batch's key `index` gives the method the items' indices; the trainer's `loss_function` is its criterion for labels,
    see `Step`. After the loss it adds the weighted terms to
    `engine.state.output["loss"]`, which `SupervisedTrainer` then uses for the backward pass. After the backward pass it
    removes the gradients of the method's `frozen_parameters`. At the start of each epoch it updates the weights, with
    progress from 0 in the first epoch to 1 in the last.

    The unweighted, detached terms are in `engine.state.output["terms"]`, with the student's cross entropy as
    `student_ce` and the weighted sum as `loss`; their means over the epoch (0 in a step without the term) are in
    `engine.state.metrics`, and the weights in `engine.state.term_weights`.

    A loss that is not finite stops the training: on a CPU before the optimizer's step; on a GPU, where reading every
    loss would slow down every step, at the end of the epoch, before it is validated or saved. Weights that are not
    finite at the end of an epoch stop it too.

    Args:
        network: the student, the trainer's own network, with or without a DistributedDataParallel wrapper.
        method: the distillation method, with or without such a wrapper.
        teacher: the frozen foundation model; None if the method needs none or all batches have `teacher_features`.
        epochs: number of epochs of the whole training, if the trainer runs only a part of it at a time (federated
            learning); None for the trainer's own number.

    Raises:
        ValueError: (in an epoch beyond `epochs`) the training is longer than `epochs`.
        NotFiniteError: (in a step or at the end of an epoch) the training has diverged; the message names the term,
            epoch and step, and the reason if it is known.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from monai_rd.handlers import CoTrainingHandler
        >>> from monai_rd.methods import build_method, trainable_parameters
        >>> from monai_rd.networks import Student, load_teacher
        >>> student, teacher = Student("resnet18", num_classes=2), load_teacher("phantom_ct")
        >>> batch = {"image": torch.rand(4, 3, 64, 64), "label": torch.tensor([0, 1, 0, 1])}
        >>> rd = build_method("rd", student, teacher, batch["label"], options={"width": 32})
        >>> optimizer = torch.optim.Adam(trainable_parameters(student, rd), 1e-3)
        >>> trainer = SupervisedTrainer("cpu", 1, [batch], student, optimizer, torch.nn.CrossEntropyLoss())
        >>> CoTrainingHandler(student, rd, teacher).attach(trainer)
        >>> trainer.run()
        >>> list(trainer.state.metrics)
        ['loss', 'student_ce', 'teacher_ce', 'kl', 'cka']
    """

    def __init__(
        self,
        network: nn.Module,
        method: nn.Module,
        teacher: FrozenFoundationModel | None = None,
        epochs: int | None = None,
    ) -> None:
        self.method, self.teacher, self.epochs = method, teacher, epochs
        self._bare_method = cast(Method, unwrapped(method))
        self._network = cast("Student", unwrapped(network))
        self._maps = LevelReader(self._network.backbone, self._bare_method.student_levels)
        self._features: Tensor | None = None
        self._terms: dict[str, Tensor] = {}
        self._sums, self._named = TermSums(), tuple[str, ...]()

    def attach(self, engine: Engine) -> None:
        """Attach to a `SupervisedTrainer`."""
        self._network.classifier.register_forward_pre_hook(self._keep_features)
        engine.add_event_handler(Events.EPOCH_STARTED, self._move_weights)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._compute_terms)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._add_terms)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._drop_frozen_gradients)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._mean_terms)
        on_failure(engine, explain_small_batch)

    def _keep_features(self, classifier: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if classifier.training:
            self._features = inputs[0]

    def _move_weights(self, engine: Engine) -> None:
        last = self.epochs or engine.state.max_epochs
        if engine.state.epoch > last:
            raise ValueError(
                f"epoch {engine.state.epoch} of a training of {last}: total_epochs counts those of all rounds"
            )
        progress = (engine.state.epoch - 1) / max(last - 1, 1)
        self._bare_method.start_epoch(progress, self._network)
        engine.state.term_weights = self._bare_method.weights(progress)
        self.method.train()
        for name in self._named:  # the next epoch may have different terms
            engine.state.metrics.pop(name, None)
        self._sums, self._named = TermSums(), ()

    def _teacher_features(self, engine: Engine, image: Tensor) -> TeacherFeatures | None:
        if not self._bare_method.needs_teacher:
            return None
        if (stored := stored_features(engine.state.batch)) is not None:
            # They are stored in half precision; autocast converts them as needed.
            parts = {name: part.to(image.device, non_blocking=True).float() for name, part in stored.items()}
            return from_rows(parts, self._network.spatial_dims)
        if self.teacher is None:
            raise ValueError(
                "the method needs a teacher: give CoTrainingHandler one, or batches with 'teacher_features'"
            )
        own = teacher_image(engine.state.batch).to(image.device, non_blocking=True)
        return self.teacher.read(own, self._bare_method.reads, engine.state.batch.get("index"))

    def _compute_terms(self, engine: Engine) -> None:
        output: dict[str, Any] = engine.state.output
        features, self._features = self._features, None
        if features is None:
            raise RuntimeError("the trainer's network did not call the classifier of the network given to this handler")
        if is_unseen(engine.state.batch):
            self._terms = {}
            self._maps.clear()
            return
        image, logits, target = (
            as_tensor(output[key]) for key in (CommonKeys.IMAGE, CommonKeys.PRED, CommonKeys.LABEL)
        )
        index = engine.state.batch.get("index")
        self._terms = self.method(
            Step(
                StudentFeatures(image, features, logits, self._maps.take()),
                self._teacher_features(engine, image),
                self._network,
                target,
                None if index is None else as_tensor(index).to(image.device, non_blocking=True),
                engine.loss_function,
            )
        )
        self._features = None  # g has also been called on the teacher path's features
        self._maps.clear()  # and the method may have run the student again

    def _add_terms(self, engine: Engine) -> None:
        output, weights = engine.state.output, engine.state.term_weights
        student_ce = output[CommonKeys.LOSS]
        # Terms with weight 0 are added too: under DDP every trained parameter must take part in every backward pass
        # (except for a method in stages, where DDP searches for unused parameters).
        loss = weights.get("student_ce", 1.0) * student_ce
        loss = loss + sum(weights[name] * term for name, term in self._terms.items())
        terms = {"loss": loss, "student_ce": student_ce, **self._terms}
        output[CommonKeys.LOSS], self._terms = loss, {}
        output["terms"] = {name: term.detach() for name, term in terms.items()}
        if wrong := self._sums.add(output["terms"]):
            self._refuse(engine, wrong, (engine.state.iteration - 1) % engine.state.epoch_length + 1)

    def _drop_frozen_gradients(self, engine: Engine) -> None:
        for parameter in self._bare_method.frozen_parameters(self._network):
            parameter.grad = None

    def _mean_terms(self, engine: Engine) -> None:
        sums, step, wrong = self._sums.read()
        if wrong:
            self._refuse(engine, wrong, step)
        weights = {
            **self._network.state_dict(),
            **{f"method.{k}": v for k, v in self._bare_method.state_dict().items()},
        }
        refuse_not_finite(weights, f"the training has diverged in epoch {engine.state.epoch}", _REMEDY)
        self._named = tuple(sums)
        given = engine.state.term_weights
        engine.state.term_weights = {name: weight for name, weight in given.items() if name in sums}
        engine.state.metrics.update({name: total / engine.state.epoch_length for name, total in sums.items()})

    def _refuse(self, engine: Engine, terms: list[str], step: int) -> NoReturn:
        named = ", ".join(name for name in terms if name != "loss" or len(terms) == 1)
        image = as_tensor(engine.state.batch[CommonKeys.IMAGE])
        reason = _REMEDY
        if not_finite({"image": image}):
            reason = (
                "the images of this step hold such values themselves: their files have them, or a transform makes them"
            )
        elif wrong := not_finite(dict(self._network.named_parameters())):
            reason = f"the student's weights have been so since the step before (the first is {wrong[0]}): {_REMEDY}"
        raise NotFiniteError(
            f"the training has diverged: in epoch {engine.state.epoch}, step {step}, not finite: {named}; {reason}. "
            "Nothing of this epoch was saved"
        )


def explain_small_batch(engine: Engine, error: BaseException) -> ValueError | None:
    """Return a clearer error for a batch too small for batch normalisation, else None; for `on_failure`."""
    if isinstance(error, ValueError) and "more than 1 value per channel when training" in str(error):
        size = getattr(engine.state.dataloader, "batch_size", 1)
        return ValueError(
            f"a batch of {size} is too small to train with: batch normalisation needs more than one value of each "
            "channel, and the last maps of these images have one; give a larger --batch_size, or a larger --image_size"
        )
    return None


def as_tensor(value: Tensor) -> Tensor:
    """Return a plain tensor: a MetaTensor of MONAI would carry its metadata through every loss."""
    return value.as_subclass(torch.Tensor)
