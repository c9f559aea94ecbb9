"""What LoRAs lose to each other on the starter, what the product says of it, and what wins it back.

    python -m bench.pairs run --work FOLDER [--pictures 200]
    python -m bench.pairs table --work FOLDER [--json]

``plan`` is what is trained and asked, fixed beforehand; ``training`` and ``painting`` do it;
``product`` asks the product's own code; ``figures`` is the arithmetic; ``table`` what comes of it.
Everything is kept in FOLDER by what decides it, so that a campaign killed at any moment goes on
where it was, and has a table from its first round on. With 200 pictures it takes a day on two
cores.
"""
