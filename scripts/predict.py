"""Class probabilities of a folder of images: predict.py --workdir=DIR --images=DIR --output=CSV."""

from metriclt_jax.cli.predict import main

if __name__ == '__main__':
    main()
