"""Files split into parts that messengers carry."""
