"""Both sides in one process (or on Ray through Flower): the same ServerApp and ClientApp as in production."""
