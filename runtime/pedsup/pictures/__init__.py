"""Pictures from anybody: from the bytes of a file to a picture that is checked and bare.

Checked: what it is (by its bytes, not by its name), how large it becomes, that it is whole and of a
kind that llama.cpp decodes. Bare: the place, the time and the camera that a phone writes into every
photo are gone. Nothing is decoded here: pixels are made by llama.cpp.
"""
