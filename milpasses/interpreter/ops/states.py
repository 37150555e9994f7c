"""States: arrays that outlive a run. A state variable's value is its name."""

from milpasses.interpreter.registry import Array, Context, op


@op("read_state", moves=True)
def read_state(ctx: Context, input: str) -> Array:  # MIL's own name
    """Content of the state."""
    return ctx.read_state(input)


@op("coreml_update_state", moves=True)
def coreml_update_state(ctx: Context, state: str, value: Array) -> Array:
    """Write the state and return what was written."""
    ctx.write_state(state, value)
    return value
