"""How good a document is, by models that a user trains: classifiers of labels, and perplexity."""

from pyjpllm.corpus.quality.classifier import Classifier, load_classifier
from pyjpllm.corpus.quality.perplexity import LanguageModel, load_language_model, train_language_model
from pyjpllm.corpus.quality.stages import ClassifierConfig, PerplexityConfig
from pyjpllm.corpus.quality.training import Settings, train_classifier

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "LanguageModel",
    "PerplexityConfig",
    "Settings",
    "load_classifier",
    "load_language_model",
    "train_classifier",
    "train_language_model",
]
