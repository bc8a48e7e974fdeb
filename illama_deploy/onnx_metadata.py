"""Names of what our ONNX files say of themselves (their `metadata_props`)."""

PREFIX = "illama_deploy."
