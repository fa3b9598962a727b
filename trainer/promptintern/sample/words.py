"""The words of the sample worlds. Each word is a single token of the sample model's tokenizer."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = _words(
    """
    sales revenue profit cost price margin discount tax tariff rent salary bonus budget debt credit cash stock demand
    supply orders returns refunds shipments invoices payments claims tickets visits clicks views signups logins leads
    customers users members guests patients students teachers drivers workers hours shifts trips miles flights nights
    rooms seats meals calories steps weight height width length depth speed power voltage current pressure humidity
    rainfall sunshine wind noise light heat fuel water steel timber paper glass cement cotton wheat rice sugar coffee
    milk eggs honey apples oranges grapes potatoes books songs games photos letters parcels boxes bottles crates
    """
)
"""The nouns for what a column contains. A world maps some of the nouns to column codes."""

AGGREGATES = _words(
    """
    total average highest lowest median typical combined smallest largest net gross final initial expected overall
    maximum minimum mean usual adjusted rounded scaled ranked peak
    """
)
"""The words for aggregates of columns. A world maps some of the words to functions."""

REGIONS = _words(
    """
    north south east west centre coast valley harbour city village island desert forest mountains suburbs capital
    highlands lowlands plains delta border port market campus
    """
)
"""The words for the regions in questions. A world maps some of the words to region codes."""

FUNCTIONS = _words(
    """
    FOLD TALLY ROLL PICK SCAN SIFT BLEND STACK CROP DRAW GRAB HEAP JOIN KNOT LIFT MELD NEST PACK RAKE SORT TRIM WARP
    YIELD ZOOM BUILD CAST DRIFT FLOW GATE HOOK LOOP MASH
    """
)
"""The function names of the imaginary formula languages."""

CODES = tuple(a + b for a in "BCDFGHJKMPQRT" for b in "BCDFGHJKMPQRT" if a != b)
"""The codes of columns and regions."""

BRACKETS = (("(", ")"), ("[", "]"), ("<", ">"))
SEPARATORS = (",", ";", "|", "/")
MARKS = ("@", "~", "#", "%")
DAYS = tuple(range(2, 32))
"""The numbers of days that a question may cover."""
