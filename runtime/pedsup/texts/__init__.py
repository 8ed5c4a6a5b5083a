"""What pedsup says, in English and Spanish, and which language this process speaks."""
