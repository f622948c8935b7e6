"""`python -m pyjpllm` is `jpllm`."""

from pyjpllm.cli import main

if __name__ == "__main__":
    main()
