"""Writes trainer/deepspeed_keys.json: every key that the installed DeepSpeed reads, as a JSON Schema.

    python tools/deepspeed_keys.py

Sections that DeepSpeed keeps as pydantic models are read from them; those that it reads by hand are listed here.
"""

from __future__ import annotations

import enum
import inspect
import itertools
import json
import types
import typing
from pathlib import Path
from typing import Any

import deepspeed
import pydantic
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.runtime import config as runtime_config
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

OUTPUT = Path(__file__).resolve().parent.parent / "trainer" / "deepspeed_keys.json"
SIMPLE = {bool: "boolean", int: "integer", float: "number", str: "string"}

BOOLEAN, INTEGER, NUMBER, STRING = ({"type": name} for name in ("boolean", "integer", "number", "string"))
OPEN: dict[str, Any] = {"type": "object"}


def section(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object whose keys are all known."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def choice(*values: str) -> dict[str, Any]:
    """One of some strings."""
    return {"type": "string", "enum": list(values)}


def model(cls: type[pydantic.BaseModel]) -> dict[str, Any]:
    """An object from a pydantic model: names, aliases, kinds, descriptions, defaults where JSON can hold them."""
    properties = {}
    documentation = _attribute_docstrings(cls)
    for name, field in cls.model_fields.items():
        entry = _kind(field.annotation)
        text = " ".join((field.description or documentation.get(name, "")).split())
        if text:
            entry["description"] = text
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("deprecated"):
            entry["deprecated"] = True
        if isinstance(field.default, (bool, int, float, str)) and not isinstance(field.default, enum.Enum):
            entry["default"] = field.default
        for known in {name, field.alias} - {None}:
            properties[known] = entry
    return section(**dict(sorted(properties.items())))


def _kind(annotation: Any) -> dict[str, Any]:
    """What JSON values an annotation takes; {} for those not told apart."""
    if annotation in SIMPLE:
        return {"type": SIMPLE[annotation]}
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return model(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        values = [member.value for member in annotation]
        return {"enum": values} if all(isinstance(value, (str, int)) for value in values) else {}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(argument) for argument in arguments if argument is not type(None)]
        return dict(kinds[0]) if len(kinds) == 1 else {}
    if origin is list or annotation is list:
        return {"type": "array"}
    if origin is dict or annotation is dict:
        return {"type": "object"}
    return {}


def _attribute_docstrings(cls: type) -> dict[str, str]:
    import ast
    import textwrap

    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    found = {}
    for statement, following in itertools.pairwise(body):
        text = following.value.value if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) else None
        if isinstance(statement, ast.AnnAssign) and isinstance(text, str):
            found[statement.target.id] = text
    return found


def schema() -> dict[str, Any]:
    """JSON Schema of DeepSpeed's configuration."""
    communication = choice("fp16", "fp32", "bf16")
    dtype = choice("fp16", "fp32", "bf16", "float16", "float32", "bfloat16", "half", "float")
    curriculum = OPEN
    properties = {
        "train_batch_size": INTEGER,
        "train_micro_batch_size_per_gpu": INTEGER,
        "gradient_accumulation_steps": INTEGER,
        "managed_gradient_accumulation": BOOLEAN,
        "steps_per_print": INTEGER,
        "dump_state": BOOLEAN,
        "disable_python_gc": BOOLEAN,
        "disable_allgather": BOOLEAN,
        "communication_data_type": communication,
        "seq_parallel_communication_data_type": communication,
        "prescale_gradients": BOOLEAN,
        "gradient_predivide_factor": NUMBER,
        "gradient_allreduce_op": choice("mean", "sum"),
        "gradient_clipping": NUMBER,
        "zero_allow_untested_optimizer": BOOLEAN,
        "zero_force_ds_cpu_optimizer": BOOLEAN,
        "wall_clock_breakdown": BOOLEAN,
        "memory_breakdown": BOOLEAN,
        "dataloader_drop_last": BOOLEAN,
        "use_data_before_expert_parallelism": BOOLEAN,
        "vocabulary_size": INTEGER,
        "log_level": STRING,
        "sequence_parallel_size": INTEGER,
        "optimizer": section(type=STRING, params=OPEN, legacy_fusion=BOOLEAN),
        "scheduler": section(type=STRING, params=OPEN),
        "zero_optimization": model(DeepSpeedZeroConfig),
        "bf16": model(DeepSpeedBF16Config),
        "bfloat16": model(DeepSpeedBF16Config),
        "fp16": model(DeepSpeedFP16Config),
        "torch_autocast": section(enabled=BOOLEAN, dtype=dtype, lower_precision_safe_modules={"type": "array"}),
        "data_types": section(grad_accum_dtype=dtype, param_dtype=dtype, buffer_dtype=dtype, keep_in_fp32_modules={}),
        "activation_checkpointing": section(
            partition_activations=BOOLEAN,
            number_checkpoints=INTEGER,
            contiguous_memory_optimization=BOOLEAN,
            synchronize_checkpoint_boundary=BOOLEAN,
            cpu_checkpointing=BOOLEAN,
            profile=BOOLEAN,
        ),
        "comms_logger": model(CommsLoggerConfig),
        "tensorboard": model(TensorBoardConfig),
        "wandb": model(WandbConfig),
        "csv_monitor": model(CSVConfig),
        "comet": model(CometConfig),
        "flops_profiler": section(
            enabled=BOOLEAN,
            recompute_fwd_factor=NUMBER,
            profile_step=INTEGER,
            module_depth=INTEGER,
            top_modules=INTEGER,
            detailed=BOOLEAN,
            output_file=STRING,
        ),
        "autotuning": OPEN,
        "hybrid_engine": model(runtime_config.HybridEngineConfig),
        "pipeline": section(
            stages={},
            partition=STRING,
            seed_layers=BOOLEAN,
            activation_checkpoint_interval=INTEGER,
            pipe_partitioned=BOOLEAN,
            grad_partitioned=BOOLEAN,
            use_reentrant=BOOLEAN,
        ),
        "data_efficiency": section(enabled=BOOLEAN, seed=INTEGER, data_sampling=curriculum, data_routing=OPEN),
        "checkpoint": section(
            tag_validation=choice("Ignore", "Warn", "Fail", "IGNORE", "WARN", "FAIL", "ignore", "warn", "fail"),
            load_universal=BOOLEAN,
            use_node_local_storage=BOOLEAN,
            parallel_write=section(pipeline_stage=BOOLEAN),
            checkpoint_serialization=BOOLEAN,
            writer=section(
                type=STRING,
                decoupled=BOOLEAN,
                io_buffer_size=INTEGER,
                io_buffer_double=BOOLEAN,
                show_statistics=BOOLEAN,
                data_parallel=STRING,
                io_multiplier=NUMBER,
            ),
        ),
        "aio": section(
            block_size=INTEGER,
            queue_depth=INTEGER,
            intra_op_parallelism=INTEGER,
            single_submit=BOOLEAN,
            overlap_events=BOOLEAN,
            use_gds=BOOLEAN,
        ),
        "datastates_ckpt": OPEN,
        "weight_quantization": OPEN,
        "compile": model(CompileConfig),
        "timers": section(throughput=model(DeepSpeedThroughputTimerConfig)),
        "tensor_parallel": model(TPTrainingConfig),
        "expert_parallel": OPEN,
    }
    removed = runtime_config._REMOVED_TOP_LEVEL_CONFIG_KEYS
    removed_zero = {f"zero_optimization.{key}": text for key, text in runtime_config._REMOVED_ZERO_CONFIG_KEYS.items()}
    return {
        "$comment": f"Written by tools/deepspeed_keys.py from DeepSpeed {deepspeed.__version__}",
        "deepspeed_version": deepspeed.__version__,
        "removed": {**removed, **removed_zero},
        "schema": section(**dict(sorted(properties.items()))),
    }


if __name__ == "__main__":
    OUTPUT.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
    print(OUTPUT)
