"""The main job: a config in, a trained model in a run folder out, on one process or as one rank of many."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyjpllm import ops
from pyjpllm.config.schema import Config
from pyjpllm.data import Loader, Tokenizer, build_loader
from pyjpllm.distributed import World, finalize, init, make_mesh
from pyjpllm.distributed.agreement import on_first_rank
from pyjpllm.distributed.collectives import all_reduce
from pyjpllm.distributed.mesh import AXES, FIELD_OF_AXIS, Mesh
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write
from pyjpllm.model import count_parameters, flops_per_token
from pyjpllm.parallel import global_grad_norm
from pyjpllm.training import checkpoint
from pyjpllm.training.build import build
from pyjpllm.training.copies import Copies
from pyjpllm.training.experts import balance, expert_biases, load_expert_biases, weigh_losses
from pyjpllm.training.faults import StepJudge, StopRequest
from pyjpllm.training.machine import describe, flushing_denormals, peak_flops, threads_per_rank
from pyjpllm.training.metrics import MetricsWriter, Timers
from pyjpllm.training.opening import Opened, open_folders
from pyjpllm.training.optimizer import AdamW, clip_scale
from pyjpllm.training.pipeline import Pipeline, PipelinedReader
from pyjpllm.training.progress import ProgressReport
from pyjpllm.training.rundir import RunLock
from pyjpllm.training.saver import Saver
from pyjpllm.training.scaling import LossScale
from pyjpllm.training.schedule import learning_rate
from pyjpllm.training.step import accumulate_gradients, count_valid
from pyjpllm.training.validation import Validation, write_samples

_COMPUTE = ("forward", "backward", "bubble")
"""The phases of a step's way through a pipeline."""


@dataclass(frozen=True)
class Result:
    """How a run ended. ``finished`` is False when a signal stopped it early, with everything saved."""

    finished: bool
    exit_reason: str
    step: int
    loss: float | None
    """Training loss of the last step; None when there was nothing left to do."""
    run_dir: Path


def train(config: Config, run_dir: Path, *, world: World | None = None) -> Result:
    """Train as ``config`` says, in ``run_dir``; go on from its newest checkpoint when it has one.

    Called once on every rank. Starts the process group from the environment unless ``world`` is given. SIGTERM,
    SIGINT, SIGXCPU and SIGUSR1 finish the step under way, save, and return. Raises UserError for a mistake in the
    config or the files it names, TrainingError when too many steps in a row are not finite, SaveError when the last
    checkpoint could not be written.
    """
    lock = RunLock()
    with StopRequest().watching() as stop, flushing_denormals():
        backend = config.parallel.backend
        if backend == "auto":
            backend = "nccl" if config.train.device == "cuda" else "mpi4py"
        ours = world is None
        if world is None:
            world = init(backend, timeout_s=config.parallel.timeout, deterministic=config.parallel.deterministic)
        trainer = None
        try:
            trainer = Trainer(config, run_dir, world, stop, lock)
            return trainer.run()
        finally:
            if trainer is not None:
                trainer.close()
            lock.release()
            if ours:
                finalize()


class Trainer:
    """Everything a run needs on one rank, built once, and the loop over steps."""

    def __init__(self, config: Config, run_dir: Path, world: World, stop: StopRequest, lock: RunLock) -> None:
        self.run_dir, self.world, self.stop = run_dir, world, stop
        self.mesh = mesh = make_mesh(
            world,
            dp=config.parallel.data,
            tp=config.parallel.tensor,
            pp=config.parallel.pipeline,
            cp=config.parallel.context,
            ep=config.parallel.expert,
        )
        self.device = _device(config, world)
        threads = threads_per_rank(world)
        torch.set_num_threads(threads)
        ops.use_backend(config.train.kernels)
        ops.use_math(config.precision.math, config.precision.math_chunk)

        copy_to = config.checkpoint.copy_to
        copies = Copies(run_dir, Path(copy_to).absolute(), lock) if copy_to else None

        def open_run() -> tuple[Opened, Config]:
            tokenizer = Tokenizer.load(config.data.tokenizer)
            resolved = _resolved(config, tokenizer)
            try:
                run_dir.mkdir(parents=True, exist_ok=True)
                lock.take(run_dir)
                return open_folders(run_dir, resolved, tokenizer.model_path, copies), resolved
            except OSError as error:
                raise UserError(f"--run {run_dir}: {error.filename or run_dir}: {error.strerror}") from error

        opened, self.config = on_first_rank(open_run, mesh.world_group)
        start, notes, config = opened.start, opened.notes, self.config
        self.tokenizer = Tokenizer.load(config.data.tokenizer)

        self.pipeline = Pipeline.of(config, mesh)
        self.model, self.parameters, self.data_parallel = build(
            config, mesh, self.device, weights=start is None, pipeline=self.pipeline
        )
        self.optimizer = AdamW(self.parameters, config.optimizer)
        self.judge = StepJudge(config.train.max_skipped_steps)
        self.loss_scale = LossScale(config.precision)
        self.step, self.consumed = 0, 0
        if start is not None:
            manifest = checkpoint.load(start, self.optimizer, mesh, copy=opened.copy, say=notes.append)
            state = manifest.state
            self.step, self.consumed = state["step"], state["consumed"]
            self.optimizer.updates = state["updates"]
            self.judge.skipped, self.judge.in_a_row = state["skipped"], state["in_a_row"]
            self.loss_scale.load(state["loss_scale"])
            load_expert_biases(self.model, state.get("expert_biases", {}))

        vocab = config.model.vocab_size
        share = self.model.context.take
        self.loader: Loader = build_loader(config, mesh, vocab, split="train", share=share)
        self.valid: Validation | None = None
        if config.data.valid:
            held_out = build_loader(config, mesh, vocab, split="valid", share=share)
            self.valid = Validation(config, held_out, self.tokenizer, mesh, self.device, self.pipeline)

        chief = world.rank == 0
        self.metrics = (
            MetricsWriter(run_dir, first_step=self.step + 1, tensorboard=config.log.tensorboard) if chief else None
        )
        self.progress = ProgressReport(config.train.steps, self.step + 1, config.log.interval, visible=chief)
        self.peak = peak_flops(self.device, config.precision.dtype, config.precision.math, world.size, threads)
        if chief:
            machine = describe(world, self.device, threads, self.peak)
            machine |= {
                "data parallel": mesh.size("dp"),
                "tensor parallel": mesh.size("tp"),
                "context parallel": mesh.size("cp"),
                "expert parallel": mesh.size("ep"),
                "pipeline parallel": mesh.size("pp"),
            }
            with atomic_write(run_dir / "environment.json") as temporary:
                temporary.write_text(json.dumps(machine, ensure_ascii=False, indent=1), encoding="utf-8")
        self.flops_per_token = flops_per_token(config.model, config.data.sequence_length)
        self.timers = Timers(self.device)
        self.saver = Saver(
            config, run_dir, self.optimizer, mesh, self.device, copies, say=self.progress.say, step=self.step
        )
        for line in notes:
            self.progress.say(line)
        self.progress.say(
            f"{'resuming ' + str(start) if start else 'starting'}: {count_parameters(config.model):,} parameters, "
            f"{world.size} rank(s) as {_layout(mesh)}, "
            f"{threads} thread(s) each, kernels {config.train.kernels}, {config.precision.dtype}"
        )
        if start is not None and opened.uncopied:
            self.saver.copy_again(start, manifest, wait=self.step >= config.train.steps)

    def run(self) -> Result:
        """Steps from where the run stands to ``train.steps``, or to a stop signal."""
        total = self.config.train.steps
        if self.step >= total:
            return Result(True, f"nothing to do: step {self.step} of {total} is done", self.step, None, self.run_dir)
        stopped, loss = False, 0.0
        while self.step < total and not stopped:
            record, stopped = self._one_step()
            loss, last = record["loss"], self.step == total
            self._evaluate_if_due(record, last)
            # Before the checkpoint, so that a kill after it leaves no gap; the saving is in the next step's seconds.
            record["seconds"] = self.timers.restart()
            if self.metrics is not None:
                self.metrics.step(record)
            self.progress.step(record)
            self._save_if_due(last or stopped)
        if self.step >= total:
            return Result(True, f"finished {total} steps", self.step, loss, self.run_dir)
        name = self.stop.signal.name if self.stop.signal else "a stop signal on another rank"
        reason = f"{name}: stopped after step {self.step} of {total}, checkpoint saved; the same command goes on"
        return Result(False, reason, self.step, loss, self.run_dir)

    def _one_step(self) -> tuple[dict[str, Any], bool]:
        config, timers = self.config, self.timers
        step, scale = self.step + 1, self.loss_scale.value
        with timers.phase("data"):
            batches = self.loader.step(self.consumed)
            count = count_valid(batches, self.mesh, self.device)
        weigh_losses(self.model, scale / config.train.global_batch)
        accumulate = accumulate_gradients if self.pipeline is None else self.pipeline.accumulate_gradients
        sums = accumulate(
            self.model,
            self.data_parallel,
            batches,
            count=count,
            z_loss=config.train.z_loss,
            loss_scale=scale,
            timers=timers,
        )
        with timers.phase("communicate"):
            norm = global_grad_norm(self.parameters, self.mesh) / scale
            # Ranks of a tensor-parallel group have the same loss: one of them counts. A signal counts from any rank.
            counts = 1.0 if self.mesh.is_first("tp") else 0.0
            wants_stop = torch.tensor(float(self.stop.signal is not None), dtype=torch.float64, device=self.device)
            idle, total = timers.seconds.get("bubble", 0.0), sum(timers.seconds.get(name, 0.0) for name in _COMPUTE)
            others = torch.tensor([idle, total, *self.saver.unwritten()], dtype=torch.float64, device=self.device)
            totals = torch.cat((torch.stack((sums.loss * counts, sums.z_loss * counts, wants_stop)), others))
            all_reduce(totals, self.mesh.world_group)
            loss_sum, z_sum, stops, idle, total, writers, copiers = totals.tolist()
            self.saver.hear(writers, copiers)
            loss, z_loss = loss_sum / count.item(), z_sum / count.item()
        lr = learning_rate(step, peak=config.optimizer.lr, schedule=config.schedule, total_steps=config.train.steps)
        with timers.phase("optimizer"):
            taken = self.judge.accept(step, loss + z_loss, norm, excuse=self.loss_scale.overflowed)
            if taken:
                self.optimizer.step(lr, clip_scale(norm, config.optimizer.clip_grad_norm) / scale)
                self.loss_scale.good()
            self.parameters.zero_grad()
        self.step = step
        self.consumed += config.train.global_batch
        tokens = config.train.global_batch * config.data.sequence_length
        speed = tokens / max(1e-9, sum(timers.seconds.values()))
        record = {
            "step": step,
            "tokens": self.consumed * config.data.sequence_length,
            "loss": loss,
            "z_loss": z_loss,
            "grad_norm": norm,
            "lr": lr,
            "tokens_per_second": speed,
            "mfu": None if self.peak is None else speed * self.flops_per_token / self.peak,
            "skipped": self.judge.skipped,
        }
        if self.loss_scale.follows:
            record["loss_scale"] = scale
        if config.model.moe is not None:
            loads = balance(self.model, self.mesh, sequences=config.train.global_batch, move=taken)
            record |= {f"expert_{name}": value for name, value in loads._asdict().items()}
        if self.pipeline is not None:
            record["bubble"] = idle / total
        return record, stops > 0

    def _evaluate_if_due(self, record: dict[str, Any], last: bool) -> None:
        interval = self.config.train.eval_interval
        if not (last or (interval and self.step % interval == 0)):
            return
        with self.timers.phase("evaluate"):
            self.parameters.values.wait()  # texts read weights before forward does
            if self.valid is not None:
                record.update(self.valid.run(self.model))
            # Ranks that share experts write together, and those that share all weights.
            if self.mesh.is_first("expert_replicas") or self.parameters.zero == 3:
                reader = self.model if self.pipeline is None else PipelinedReader(self.model, self.pipeline)
                for prompt, text in write_samples(reader, self.tokenizer, self.config):
                    if self.metrics is not None:
                        self.metrics.sample(self.step, prompt, text)
            if self.pipeline is not None:
                measured = self.pipeline.measured()
                if self.metrics is not None:
                    with atomic_write(self.run_dir / "pipeline.json") as temporary:
                        temporary.write_text(json.dumps({"step": self.step, **(measured or {})}), encoding="utf-8")
        if "valid_loss" in record:
            self.progress.say(
                f"step {self.step}: held-out loss {record['valid_loss']:.4f}, "
                f"{record['valid_bits_per_byte']:.4f} bits per byte"
            )

    def _save_if_due(self, must: bool) -> None:
        interval = self.config.checkpoint.interval
        due = must or (interval and self.step % interval == 0)
        if due or self.saver.ready:
            with self.timers.phase("checkpoint"):
                self.saver.complete(wait=bool(due))
        if not due:
            return
        state = {
            "step": self.step,
            "consumed": self.consumed,
            "updates": self.optimizer.updates,
            "skipped": self.judge.skipped,
            "in_a_row": self.judge.in_a_row,
            "loss_scale": self.loss_scale.state(),
            "expert_biases": expert_biases(self.model, self.mesh),
        }
        with self.timers.phase("checkpoint"):
            if self.metrics is not None:
                self.metrics.sync()
            self.saver.save(self.step, state, must=must)

    def close(self) -> None:
        """Flush the records and leave the terminal as it was."""
        self.progress.close()
        self.saver.wait()
        if self.metrics is not None:
            self.metrics.close()
        self.parameters.remove_hooks()
        self.loader.close()
        if self.valid is not None:
            self.valid.loader.close()


def _layout(mesh: Mesh) -> str:
    """In words: the axes along which there are several ranks."""
    sizes = {FIELD_OF_AXIS[axis]: mesh.size(axis) for axis in AXES}
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "data 1"


def _device(config: Config, world: World) -> torch.device:
    if config.train.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("train.device = 'cuda', but torch sees no GPU here; write train.device = 'cpu'")
    device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _resolved(config: Config, tokenizer: Tokenizer) -> Config:
    """The config with ``model.vocab_size`` from the tokenizer, and a ``checkpoint.copy_to`` that holds anywhere."""
    size, copy_to = config.model.vocab_size, config.checkpoint.copy_to
    update: dict[str, Any] = {}
    if copy_to:
        update["checkpoint"] = config.checkpoint.model_copy(update={"copy_to": str(Path(copy_to).absolute())})
    if size == 0:
        update["model"] = config.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
    elif size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size = {size} is smaller than the tokenizer's {tokenizer.vocab_size} "
            f"({config.data.tokenizer}); write {tokenizer.vocab_size}, or 0 to take it from the tokenizer"
        )
    return config.model_copy(update=update)
