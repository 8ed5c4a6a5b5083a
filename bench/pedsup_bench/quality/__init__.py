"""What quantization cost: divergence of a file's next-token distributions from a reference's."""
