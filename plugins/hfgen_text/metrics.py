"""The metrics of texts, beside those of every modality. Listing them imports no torch."""

from hfgen import Metric

METRICS = {
    "bits_per_byte": Metric("bits/byte", "lower", "-log2 p(x) per byte of a text, or its bound", "likelihood"),
    "ngram_divergence": Metric(
        "3-gram divergence", "lower", "Jensen-Shannon divergence of 3-grams of sampled and real texts, bits", "samples"
    ),
    "reference_bits_per_byte": Metric(
        "n-gram bits/byte", None, "cross-entropy of samples under a 6-gram model of the training texts", "samples"
    ),
    "ngram_entropy": Metric("4-gram entropy", None, "entropy of the 4-grams of sampled texts, bits", "samples"),
    "copied_ngrams": Metric(
        "copied 12-grams", None, "share of samples' 12-grams that are in training texts", "samples"
    ),
    "seconds_per_text": Metric("s/text", "lower", "seconds to sample one text, in batches", "cost"),
}
OF_SAMPLES = tuple(name for name, metric in METRICS.items() if metric.of_samples)
