"""Tests expositions with the strict OpenMetrics parser of prometheus_client.

Standard input: JSON lines {"text": exposition, "samples": [[name, {label: value}, value], ...]}.
Each text must parse into exactly these samples; without "samples", it must only parse.
"""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

for number, line in enumerate(sys.stdin):
    case = json.loads(line)
    try:
        families = list(text_string_to_metric_families(case["text"]))
    except Exception as error:
        sys.exit(f"case {number}: {error!r}\n{case['text']}")
    found = [
        [sample.name, sample.labels, sample.value]
        for family in families
        for sample in family.samples
    ]
    expected = case.get("samples")
    if expected is not None and found != expected:
        sys.exit(f"case {number}:\nfound    {found}\nexpected {expected}\n{case['text']}")
    for family in families:
        if not family.documentation:
            sys.exit(f"case {number}: {family.name} has no help")
