"""The metrics of images, beside those of every modality. Listing them imports no torch."""

from hfgen.modality import Metric

METRICS = {
    "fid": Metric("FID", "lower", "Fréchet distance between features of real and sampled images", "features"),
    "kid": Metric(
        "KID", "lower", "squared maximum mean discrepancy of the features, unbiased: may be below 0", "features"
    ),
    "inception_score": Metric("IS", "higher", "how sure and how various the extractor's classes are", "features"),
    "precision": Metric("precision", "higher", "sampled images among the neighbors of real ones", "manifold"),
    "recall": Metric("recall", "higher", "real images among the neighbors of sampled ones", "manifold"),
    "density": Metric("density", "higher", "how many real images' neighborhoods a sampled one lies in", "manifold"),
    "coverage": Metric("coverage", "higher", "real images in whose neighborhood a sampled one lies", "manifold"),
    "authenticity": Metric(
        "authenticity", None, "sampled images that do not copy training images; beside new real ones", "features"
    ),
    "reconstruction_mse": Metric(
        "reconstruction MSE", "lower", "mean squared error of pixels in [0, 1]", "reconstruction"
    ),
    "reconstruction_fid": Metric(
        "reconstruction FID", "lower", "FID of the real images' reconstructions", "reconstruction"
    ),
    "seconds_per_image": Metric("s/image", "lower", "seconds to sample one image, in batches", "cost"),
}
MANIFOLD = ("precision", "recall", "density", "coverage")
