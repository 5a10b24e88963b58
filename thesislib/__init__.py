"""Force a neural network to explore the loss landscape: visited minima become hills in the loss.

Read the rooms in the order of `ROOMS`; each one imports only rooms named before it.
"""

ROOMS = (
    "config",  # what a run is
    "files",  # whole files or none
    "schema",  # the form of JSON files
    "datasets",  # find and verify a dataset on disk (numpy)
    "schedules",  # learning rate and strength per epoch
    "metrics",  # scores of predictions
    "machine",  # cores, devices, pools of processes
    "store",  # run folders: find, lock, resume, write
    "results",  # finished runs as tables
    "beginnings",  # the epochs that runs share
    "derived",  # what was computed from them, kept on disk
    "records",  # finished runs in one small file, without weights
    "scales",  # the sizes of the experiments
    "sections",  # the thesis' grids
    "fidelity",  # the thesis' printed numbers beside ours
    "parallel",  # several processes on one run
    "batches",  # a dataset as tensors on the device
    "models",  # the networks
    "flat",  # all parameters as one vector
    "kernels",  # hills as functions of the squared distance
    "vectors",  # distance and push, each one pass over memory
    "minima",  # the visited minima and the distance term
    "steplog",  # what is measured while an epoch trains
    "train",  # the loop
    "probe",  # loss and predictions at any weights
    "landscape",  # lines, curves and planes between minima
    "matching",  # is it the same network, its units permuted?
    "launch",  # many runs
    "plan",  # what a scale takes
    "jobs",  # where runs were sent
    "cluster",  # many runs through Slurm
    "verdicts",  # from effects over seeds to a verdict
    "ensembles",  # several networks as one predictor
    "budget",  # ensembles of equal budget compared
    "valleys",  # what lies between the minima of finished runs
    "planes",  # the plane through a walk's minima
    "claims",  # C1 ... C14
    "style",  # one look for all figures
    "curves",  # plots over epochs, steps, positions
    "figures",  # the other recurring plots
    "pgf",  # a figure as LaTeX code
    "export",  # figures on disk
    "chapter",  # notebooks through papermill
    "arguments",  # what the command line accepts
    "__main__",  # the command line
)
