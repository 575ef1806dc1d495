"""`python -m cwsam_cli`, the same program as `cwsam`."""

from cwsam_cli.main import main

if __name__ == "__main__":
    main()
