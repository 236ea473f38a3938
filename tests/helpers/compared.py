"""Parts of results that are compared."""

BOUND = {"kind": "lower bound", "method": None, "num_importance_samples": 8, "num_values": 256, "images": 20}


EXACT = {**BOUND, "kind": "exact", "num_importance_samples": None}


def likelihood(told, bits, error=0.01):
    value = {"value": bits, "error": error, "error_of": "standard error"}
    return {"likelihood": told, "values.bits_per_dim": value, "values.nats": {**value, "value": -bits * 543}}


def marks(comparison, metric):
    return {row.name: row.values[metric].get("mark") for row in comparison.rows if metric in row.values}
