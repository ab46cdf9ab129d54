"""The training engine: MONAI's `SupervisedTrainer` with what a dependable run needs around it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from medseg.engines.augmenting import PLACES, augment, settle
from medseg.engines.averaging import MovingAverage
from medseg.engines.evaluator import Evaluator
from medseg.engines.failures import TrainingError, diverged, let_go, no_memory, out_of_memory
from medseg.engines.loading import SegmentationDataset, make_loader, stop_workers
from medseg.engines.memory import keep_freed_memory
from medseg.engines.precision import network_to_channels_last, network_to_device, resolve_precision
from medseg.engines.progress import Progress
from medseg.engines.random_state import own_random_state, seed_all
from medseg.engines.schedule import Schedule
from medseg.engines.selection import Selection
from medseg.engines.step import steps_now, steps_taken, train_step
from medseg.engines.training_parts import AutocastInferer, EpochMeter, PrepareBatch, agreed, at_least, finite, rates
from medseg.errors import MedsegError, counted
from medseg.losses.joined import over_processes
from medseg.runs import signals
from medseg.runs.checkpoint import load_weights, restore_optimizer, save_checkpoint, unwrap
from medseg.runs.processes import of_the_first, pick_device, rank, wait_for_all, world_size
from medseg.runs.run import Run

logger = logging.getLogger(__name__)

_CHECK_EVERY = 10  # iterations between looks at the loss, each of which waits for the device


class Trainer(SupervisedTrainer):
    """Train a network: schedule, precision, averaging, validation, checkpoints, resume, budget, progress, records.

    Everything random depends on (seed, epoch, sample) alone and an epoch is committed by one atomic file, so a run
    that was killed at any moment and resumed ends with the weights of an uninterrupted one. The random state of the
    process is given back when the run ends.

    Args:
        max_epochs: epochs of the whole schedule.
        device: where to train.
        dataset: training samples with ``image`` ``(C, *S)`` and ``label`` ``(1, *S)``.
        network: the network, on ``device``.
        loss_function: takes what the network returns and the label ``(B, 1, *S)`` (or, where the data set gives
            further targets, the batch), gives a scalar.
        optimizer: over the network's parameters.
        run: the run's folder and records.
        batch_size: samples a step and process.
        num_workers: loading processes.
        inferer: how the training forward is called; MONAI's ``SimpleInferer`` by default.
        evaluator: validates and picks the best weights; without one, or without validation samples, the last
            weights are the result.
        val_interval: epochs between validations.
        schedule: ``"constant"``, ``"poly"``, ``"cosine"`` or ``"steps"``.
        schedule_power: exponent of ``poly``.
        schedule_steps: shares of the schedule from which on the rate of ``steps`` is a tenth of what it was.
        warmup: iterations of linear rise.
        max_minutes: wall-clock budget, validation included; the schedule is fitted to it. It ends the training inside
            an epoch, which is then recorded as far as it went, and the run is complete.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"`` (bf16 on a GPU that has it, else fp32).
        channels_last: keep activations channels-last; volumes on a GPU, where that is slower, stay as they are.
        compile: pass the network through ``torch.compile``.
        compile_kwargs: arguments of ``torch.compile``.
        accumulation_steps: batches a step of the optimiser.
        clip_grad_norm: largest norm of the gradient.
        ema_decay: average the weights with this decay; validation and the saved best use the average.
        select_by: validation score that picks the best weights, such as ``"val_mean_iou"``, or ``"val_loss"``.
        early_stop: stop after so many validations without a better score.
        resume: go on from the run's last checkpoint, where there is one.
        seed: of shuffling, augmentation and dropout.
        iterations: batches an epoch, for which cases are drawn again; ``None`` for a pass over them.
        augment_on: where samples are augmented: ``"loader"``, ``"device"`` or ``"auto"``, see `settle`.
        process_owner: whether the process is there for this training alone, so that its memory allocator may be set.

    Raises:
        ValueError: if an option is out of range, or ``select_by`` is none of the evaluator's scores.
        TrainingError: if there are too few samples, the run's folder is taken, or the loss is no longer finite.
    """

    def __init__(
        self,
        max_epochs: int,
        device: torch.device | str,
        dataset: SegmentationDataset,
        network: nn.Module,
        loss_function: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        run: Run,
        *,
        batch_size: int = 1,
        num_workers: int = 0,
        inferer: Inferer | None = None,
        evaluator: Evaluator | None = None,
        val_interval: int = 1,
        schedule: str = "constant",
        schedule_power: float = 0.9,
        schedule_steps: Sequence[float] = (),
        warmup: int = 0,
        max_minutes: float | None = None,
        precision: str = "auto",
        channels_last: bool = True,
        compile: bool = False,
        compile_kwargs: dict[str, Any] | None = None,
        accumulation_steps: int = 1,
        clip_grad_norm: float | None = None,
        ema_decay: float | None = None,
        select_by: str = "val_mean_iou",
        early_stop: int | None = None,
        resume: bool | str = False,
        seed: int = 0,
        iterations: int | None = None,
        augment_on: str = "loader",
        process_owner: bool = False,
    ) -> None:
        at_least(1, max_epochs=max_epochs, batch_size=batch_size, val_interval=val_interval, early_stop=early_stop)
        if augment_on not in PLACES:
            raise MedsegError(f"augment_on is {augment_on!r}; choose one of {', '.join(PLACES)}")
        device = pick_device(device)
        if process_owner:
            keep_freed_memory(device)
        self.precision = resolve_precision(precision, device)
        pin = device.type == "cuda"
        loader = make_loader(
            dataset, batch_size, shuffle=True, num_workers=num_workers, seed=seed, pin_memory=pin, iterations=iterations
        )
        if channels_last and not isinstance(network, nn.parallel.DistributedDataParallel):  # `parallel` has done it
            network_to_channels_last(network)
        network_to_device(network)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=over_processes(loss_function),
            inferer=AutocastInferer(inferer or SimpleInferer(), self.precision, device),
            prepare_batch=PrepareBatch(channels_last, partial(augment, dataset)),
            iteration_update=train_step,
            non_blocking=True,
            decollate=False,
            amp=self.precision == "fp16" and device.type == "cuda",
            amp_kwargs={"dtype": torch.float16},
            compile=compile,
            compile_kwargs=compile_kwargs,
            accumulation_steps=accumulation_steps,
            optim_set_to_none=True,
        )
        self.run_record = run
        self.train_data = dataset
        self.augment_on = augment_on
        self.seed = seed
        self.batch_size = batch_size
        self.evaluator = evaluator if evaluator is not None and len(evaluator.dataset) else None
        self.val_interval = val_interval
        self.max_minutes = max_minutes
        self.clip_grad_norm = clip_grad_norm
        self.early_stop = early_stop
        self.resume = bool(resume)
        self.average = None if ema_decay is None else MovingAverage(unwrap(network), ema_decay)
        fall: dict[str, Any] = {"power": schedule_power, "steps": schedule_steps, "warmup": warmup}
        self.schedule = Schedule(optimizer, schedule, max_epochs * len(loader), max_minutes=max_minutes, **fall)
        self.progress = Progress(max_epochs, len(loader), max_minutes=max_minutes, enabled=rank() == 0)
        self.selection = Selection(
            select_by,
            lower_is_better=getattr(evaluator, "lower_is_better", ()),
            known=getattr(self.evaluator, "score_names", ()),
        )
        self._spent_before = 0.0  # seconds of earlier, interrupted parts of this run
        self._meter = EpochMeter()
        self._register()

    def _register(self) -> None:
        self.add_event_handler(Events.EPOCH_STARTED, Trainer._start_epoch)
        self.add_event_handler(Events.GET_BATCH_STARTED, lambda engine: engine._meter.wait_started())
        self.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: engine._meter.wait_completed())
        self.add_event_handler(Events.ITERATION_STARTED, Trainer._set_rate)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._validated_batch)
        if self.clip_grad_norm is not None:
            self.add_event_handler(IterationEvents.BACKWARD_COMPLETED, Trainer._clip)
        self.add_event_handler(Events.ITERATION_COMPLETED, Trainer._after_iteration)
        self.add_event_handler(Events.EPOCH_COMPLETED, Trainer._finish_epoch)

    def run(self) -> None:
        """Train to the end of the schedule or of the budget, then write the report.

        Raises:
            TrainingError: if the loss is no longer finite, or the folder holds another run.
        """
        state = self.run_record.open(resume=self.resume, network=self.network)
        self._started = time.monotonic()
        try:
            with own_random_state():
                self._run(state)
        except (KeyboardInterrupt, SystemExit):
            self.run_record.close("KILLED")
            raise
        except BaseException as error:
            if (asked := signals.received()) is not None:  # a loading process was asked too, and ended first
                self.run_record.close("KILLED")
                raise asked from error
            told = self._no_memory(error) if out_of_memory(error) else error
            self.run_record.close("FAILED", told)
            if told is not error:
                raise told from error
            raise
        finally:
            self.train_data.augments = True
            for engine in (self, self.evaluator):
                if engine is not None:
                    stop_workers(engine)
        self.run_record.close("FINISHED")

    def _run(self, state: Mapping[str, Any] | None) -> None:
        self._seed(0)
        if state is not None:
            self._restore(state)
        stopped = state is not None and state["finished"] == self._limits()
        complete = stopped or self.state.epoch >= self.state.max_epochs
        if complete:
            logger.info("%s is complete after %s", self.run_record.name, counted(self.state.epoch, "epoch"))
            if self.run_record.model.is_file():  # nothing is trained, so no record may change
                return
        self.run_record.begin(self.state.epoch)
        if not complete:
            settle(self, self.train_data, self.augment_on, self.run_record, resumed=self.resume)
            with self.progress:
                super().run()
        self._conclude()

    def _conclude(self) -> None:
        wait_for_all()  # the first may still write the weights
        weights, origin = self.run_record.weights_to_use()
        load_weights(self.predictor, weights, origin=origin)
        result = None
        if self.evaluator is not None:
            self.evaluator.score(self.predictor, self.state.epoch)
            self.evaluator.warn_of_one_class()
            result = self.evaluator.result()
        if rank() == 0:
            self.run_record.finish_training(weights, result, self.predictor, self._meter.image_shape)

    @property
    def seconds(self) -> float:
        """Seconds of training and validation so far, over all parts of the run."""
        return self._spent_before + time.monotonic() - self._started

    def _limits(self) -> list[float | None]:
        return [self.state.max_epochs, self.max_minutes, self.early_stop]

    def _seed(self, epoch: int) -> None:
        # dropout draws from torch's generator, in all processes the same; a fresh one an epoch leaves no state
        seed_all(np.random.SeedSequence([self.seed, epoch, 0]))

    def _start_epoch(self) -> None:
        self._seed(self.state.epoch)
        self.network.train()
        self._meter.start(self.state.device)
        self.progress.start_epoch(self.state.epoch)

    def _set_rate(self) -> None:
        self.clock = 0.0 if self.max_minutes is None else of_the_first(self.seconds, self.state.device)
        self._rate = self.schedule.step(self.state.iteration - 1, self.clock)

    def _clip(self) -> None:
        if not steps_now(self):
            return
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.clip_grad_norm or 0.0)

    def _after_iteration(self) -> None:
        if self.average is not None and steps_now(self):
            self.average.update_parameters(unwrap(self.network))
        terms = getattr(self.loss_function, "last_terms", {})
        self._meter.add(self.state.output["loss"].detach(), self.state.output["image"], terms)
        if self.state.iteration % _CHECK_EVERY == 0 or self._meter.count == 1 or self.progress.due():
            loss, rate = self._finite_loss(), self._rate
            self.progress.advance(self.state.epoch, self._meter.count, loss, rate, self.seconds)
        if (asked := signals.received()) is not None:  # its exception was lost
            raise asked
        if self.max_minutes is not None and self._out_of_time():
            self.terminate_epoch()

    def _validated_batch(self) -> None:
        assert self.evaluator is not None
        engine = self.evaluator.state
        self.progress.validate((engine.iteration - 1) % (engine.epoch_length or 1) + 1, engine.epoch_length or 1)

    def _out_of_time(self) -> bool:
        budget = 60 * (self.max_minutes or 0)
        over = self.seconds + min(self._reserve(), budget / 2) >= budget
        return bool(agreed([over], self.state.device)[0])  # all processes stop at the same iteration

    def _reserve(self) -> float:
        """Return the seconds that the last validation and the one for the report take."""
        if self.evaluator is None:
            return 0.0
        # before the first: a step takes an image longer than its prediction does
        guess = self._meter.seconds_per_image() * len(self.evaluator.dataset) / world_size()
        return 2 * (self._meter.validation_seconds or guess)

    def _finite_loss(self) -> float:
        loss = self._meter.mean_loss()
        if not math.isfinite(loss):
            self._diverged(f"the loss is {loss}")
        return loss

    def _diverged(self, what: str) -> NoReturn:
        raise diverged(what, self._place(), self._rate, self.run_record.last_checkpoint)

    def _no_memory(self, error: BaseException) -> TrainingError:
        let_go(error, self.state)
        last = self.run_record.last_checkpoint
        return no_memory(self._place(), self.state.device, self.batch_size, self._meter.image_shape, last)

    def _place(self) -> str:
        return f"epoch {self.state.epoch}, iteration {self.state.iteration}"

    def _finish_epoch(self) -> None:
        over = self.max_minutes is not None and self._out_of_time()
        last = over or self.state.epoch >= self.state.max_epochs
        values = self._meter.summary(self._finite_loss(), rates(self.optimizer), world_size())
        if not finite(self.network):  # the last step may spoil the weights after a loss that was still finite
            self._diverged("weights are no longer finite")
        if self.evaluator is not None and (last or self.state.epoch % self.val_interval == 0):
            values |= self._validate()
        if self.early_stop is not None and self.evaluator is not None and self.selection.epoch:
            last = last or self.state.epoch - self.selection.epoch >= self.early_stop * self.val_interval
        values |= {"seconds": self.seconds, "batch_size": self.batch_size, "steps": steps_taken(self)}
        if rank() == 0:
            self.run_record.record_epoch(self.state.epoch, values)
            save_checkpoint(self._state(finished=last), self.run_record.last_checkpoint)
            self.run_record.publish_epoch()
        self.progress.finish_epoch(self.state.epoch, values, self.selection.state(), self.seconds)
        if over and self.state.iteration < self.state.max_epochs * self.state.epoch_length:
            self.progress.cut_short(self.state.iteration, self.state.max_epochs * self.state.epoch_length)
        if last:
            self.terminate()

    def _validate(self) -> dict[str, float]:
        assert self.evaluator is not None
        started = time.monotonic()
        if world_size() > 1:  # batch statistics of the first process, which are the ones that are saved
            for buffer in self.predictor.buffers():
                torch.distributed.broadcast(buffer, src=0)
        scores = self.evaluator.score(self.predictor, self.state.epoch)
        self._meter.validation_seconds = time.monotonic() - started
        if self.selection.update(scores, self.state.epoch) and rank() == 0:
            self.run_record.save_best(unwrap(self.predictor).state_dict(), self.selection.state())
        return scores if self.selection.score is None else {**scores, "best_score": self.selection.score}

    @property
    def predictor(self) -> nn.Module:
        """The network to predict with: the average where there is one."""
        return self.average.module if self.average is not None else unwrap(self.network)

    def _state(self, *, finished: bool) -> dict[str, Any]:
        return {
            "format": 2,
            "identity": self.run_record.identity,
            "epoch": self.state.epoch,
            "finished": self._limits() if finished else [],
            "seconds": self.seconds,
            "best": self.selection.state(),
            "network": unwrap(self.network).state_dict(),
            "ema": {} if self.average is None else self.average.module.state_dict(),
            "ema_steps": 0 if self.average is None else int(self.average.n_averaged),
            "optimizer": self.optimizer.state_dict(),
            "scaler": {} if self.scaler is None else self.scaler.state_dict(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        name = f"checkpoint {self.run_record.last_checkpoint}"
        load_weights(self.network, state["network"], origin=name)
        if self.average is not None:
            load_weights(self.average.module, state["ema"] or state["network"], origin=name)
            self.average.n_averaged.fill_(state["ema_steps"])
        restore_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"]:
            self.add_event_handler(Events.STARTED, lambda engine: engine.scaler.load_state_dict(state["scaler"]))
        self.selection.restore(state["best"])
        self._spent_before = float(state["seconds"])
        self.state.epoch = int(state["epoch"])
        self.state.iteration = self.state.epoch * self.state.epoch_length
        logger.info("resumed %s after epoch %d", self.run_record.name, self.state.epoch)
