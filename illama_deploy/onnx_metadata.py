"""Names of what our ONNX files say of themselves (their `metadata_props`)."""

PREFIX = "illama_deploy."
#: Key of the files that weights lie in beside this one: name to its `sha256` and `bytes`.
EXTERNAL = "external"
#: What our files name as their maker.
PRODUCER = "illama-deploy"
