"""The bundled ONNX models, one card each, and the code that verifies them."""
