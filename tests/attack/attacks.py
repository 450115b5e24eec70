"""The attacks, in the order of the document. What each gained before was measured on 0.1.0 and does not change."""

from __future__ import annotations

from tests.attack import on_budgets, on_examples, on_messages
from tests.attack.attack import Attack

ATTACKS = (
    Attack(
        "dropout",
        "dropout draws its masks by place in the padded batch, from a seed that the coordinator chooses: one text more "
        "changes everybody's. Demo model, `private-fedit`, clipped sums of a site's file with a row and without it.",
        "2.30 C with 32 texts, 4.62 C with 128; 40 runs with and 40 without one text told apart, 80 of 80",
        ("tests/privacy/test_sensitivity.py", "tests/privacy/test_quiet.py"),
        on_examples.dropout,
    ),
    Attack(
        "padding",
        "an adapter that is finite on tokens and overflows on padding from position 14 on: the longest text of a batch "
        "decides whose gradients are finite, and what is not counts as zero.",
        "6.2 C with twenty texts, growing with their number",
        ("tests/privacy/test_padding.py",),
        on_examples.padded,
    ),
    Attack(
        "split",
        "one row more, one less, or one that repeats a text under another class: which other rows join or leave the "
        "training set for it.",
        "of 900 training rows 83 left and 84 joined",
        ("tests/client/test_own_rows.py", "tests/fedlora/data/test_membership.py"),
        on_examples.moved_split,
    ),
    Attack(
        "tokenizer",
        "a task names a model whose normaliser blows up one phrase, under the fingerprint of an allowed model: an "
        "answer that differs tells whether a row has the phrase, uncharged and as often as wanted.",
        "phrase absent: refused in 1.2 s; one row with it: the process died",
        ("tests/privacy/test_order.py", "tests/fedlora/models/test_fingerprint.py"),
        on_messages.tokenizer_query,
    ),
    Attack(
        "positions",
        "a RoBERTa at more tokens than it has positions: every draw fails, the site is charged and trains on noise.",
        "charged; 41 of 41 draws dropped, and nothing said",
        ("tests/fedlora/tasks/inputs/test_positions.py", "tests/privacy/test_rehearsal.py"),
        on_messages.no_positions,
    ),
    Attack(
        "late",
        "a site whose answers always come late is charged in every round; what the summary says that it has spent.",
        "charged 3.000, shown 2.813; always late: 0.0",
        ("tests/privacy/test_sent.py",),
        on_budgets.forgotten,
    ),
    Attack(
        "plan",
        "what *Start a run* foretells for a site, at most, and what its guard grants in the end.",
        "3.01 for 4.04 (1,990 examples), 13.1 for 16.7 (499), 6.18 for 7.57 (10 spare rounds)",
        ("tests/privacy/test_terms.py", "tests/server/runs/test_launch.py"),
        on_budgets.foretold,
    ),
    Attack(
        "client-level denominator",
        "whether noise and denominator of client-level privacy tell that one more site is connected.",
        "noise 0.2222 with eight, 0.2000 with nine",
        ("tests/privacy/test_client_level.py",),
        on_budgets.connected,
    ),
    Attack(
        "another name",
        "the same file as another dataset: its budget began at zero, and an error text advised it.",
        "ε from zero, as often as wanted",
        ("tests/privacy/test_sketch.py",),
        on_budgets.other_name,
    ),
    Attack(
        "strategy",
        "a task with the name of an allowed strategy that trains more than that strategy does.",
        "`strategies: [ffa]` trained A, B and head",
        ("tests/strategies/test_asks.py",),
        on_messages.other_strategy,
    ),
    Attack(
        "malformed row",
        "one row without a class: whether every task then fails, which tells that it is there.",
        "every task failed, before any charge",
        ("tests/client/test_own_rows.py",),
        on_messages.malformed_row,
    ),
    Attack(
        "declared size",
        "a δ just below one in the declared size: whether the answer tells if there are more examples.",
        "90,000 granted, 90,001 refused",
        ("tests/privacy/test_guard.py",),
        on_budgets.delta_by_size,
    ),
    Attack(
        "ladder",
        "where a size is not declared it is rounded down to a ladder, and at a step of it one example shows in q. That "
        "is a named leak; with a declared size, which enrolment now writes, nothing follows the data.",
        "q followed the data, and no size was recommended",
        ("tests/deploy/test_declared.py",),
        on_budgets.ladder_step,
    ),
    Attack(
        "subnormal clip",
        "a clipping norm below 1e-12, where dividing by a norm is no longer exact.",
        "2.09 C",
        ("tests/privacy/test_precision.py",),
        on_examples.subnormal,
    ),
    Attack(
        "receipt",
        "a site that trains a cheaper task and sends the receipt of that one.",
        "the update was taken",
        ("tests/privacy/test_private_federation.py",),
        on_messages.cheaper_receipt,
    ),
    Attack(
        "TF32",
        "a process in which matrix products may use 10 bits: what the products inside the clipping use.",
        "TF32, by which a clipped gradient is off by 1e-3",
        ("tests/privacy/test_precision.py",),
        on_examples.tf32,
    ),
    Attack(
        "blind audit",
        "faults put into the product while `fedlora privacy audit` looks; `make audit` does it to packaged recipes.",
        "'The claim stands' without noise, without clipping and with q x 8",
        ("tests/simulations/test_audit.py", "tests/privacy/test_gaussian_audit.py"),
        on_examples.blind_audit,
    ),
)
