"""What the lesson's job takes on a GPU, measured: time, memory, and where both go.

    python -m bench.gpu prepare|job|memory|profile|manners|floor --work FOLDER
                        [--shape sd15|sdxl|starter|tiny] [--batch 8] [--steps 500] [--compile] …

The bases have random weights and the pictures are drawn; both are kept in FOLDER. Each verb prints
one JSON object. ``job`` and ``memory`` watch a worker as the daemon has it, from outside; the
others measure in their own process. Without a GPU all of them work on the CPU.
"""
