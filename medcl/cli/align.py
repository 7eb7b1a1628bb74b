"""`medcl align`."""

from medcl.cli.options import ConfigFile, Overrides, PrintConfig, Resume


def command(
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    print_config: PrintConfig = False,
) -> None:
    """Bring images, reports, ECGs and laboratory values into one joint space.

    Example: medcl align configs/align/clip.yaml data.path=pairs.csv out=runs/clip
    """
    from medcl.cli.training import run_training

    run_training("align", config, overrides or [], resume=resume, print_config=print_config)
