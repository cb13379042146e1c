mod certificates;
mod handshakes;
mod verdicts;
