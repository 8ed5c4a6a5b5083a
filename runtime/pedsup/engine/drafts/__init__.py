"""Speculative decoding: several tokens guessed, then read by the model in one pass.

Reading a few tokens costs hardly more than reading one, because the weights pass through memory
once for all of them. The model draws its own token at each place, with its own sampler; a guess
only decides whether that place was already computed. So the text is the model's, whoever guesses.
"""
