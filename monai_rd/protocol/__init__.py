"""The paper's experiments (arXiv 2407.06504, Tables 2 to 6 and Figure 2) as one command that can be resumed."""
