"""What the CPU targets share: Programs compiled by Apache TVM."""
