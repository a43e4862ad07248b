"""``python -m dtkernels.nnunet`` prints the folder that the variable ``nnUNet_extTrainer`` has to name."""

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).resolve().parent / "external")
