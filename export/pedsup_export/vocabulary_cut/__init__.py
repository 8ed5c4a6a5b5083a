"""A vocabulary cut to the languages of the clinic: fewer tokens, the same answers in what is kept.

languages    named languages: letters and word lists
signs        what is kept whatever the language: signs, units, white space
token_list   the tokenizer of a GGUF: tokens, types, scores, merges
derivation   how a token comes about from its characters, and what it needs for that
weights      how often each token is used: word lists and texts
choose       which tokens stay
cut          metadata and tensors of the cut model
proof        that text of kept tokens is still tokenized as before
plan         from the user's options to the cut
"""
