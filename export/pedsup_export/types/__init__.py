"""Which type each tensor gets, and the one door to every quantizer."""
