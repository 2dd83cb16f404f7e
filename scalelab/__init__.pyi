from .api.chat import open_chat as open_chat
from .api.conversion import convert as convert
from .api.costs import compare_costs as compare_costs
from .api.costs import list_hardware as list_hardware
from .api.costs import price as price
from .api.designs import design as design
from .api.diagnosis import diagnose as diagnose
from .api.downstream import predict_downstream as predict_downstream
from .api.evaluation import evaluate as evaluate
from .api.fitting import compare_laws as compare_laws
from .api.fitting import fit_law as fit_law
from .api.fitting import load_fit as load_fit
from .api.fitting import read as read
from .api.forecasting import roll_out as roll_out
from .api.forecasting import score_forecasts as score_forecasts
from .api.generation import generate as generate
from .api.importing import import_runs as import_runs
from .api.isoflops import isoflop as isoflop
from .api.measuring import measure_model as measure_model
from .api.pairing import pairs as pairs
from .api.planning import make_plan as make_plan
from .api.recipes import compare_recipes as compare_recipes
from .api.reporting import report as report
from .api.runs import check_results as check_results
from .api.runs import list_runs as list_runs
from .api.second_stage import train_streams as train_streams
from .api.streams import add_streams as add_streams
from .api.sweeps import plan_sweep as plan_sweep
from .api.sweeps import run_sweep as run_sweep
from .api.watching import watch as watch

__version__: str
__all__: list[str]
