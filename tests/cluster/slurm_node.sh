#!/usr/bin/env bash
# A Slurm cluster of nodes that all are this one machine, with two stand-in GPUs each and no accounting.
#
#   slurm_node.sh start FOLDER [NODES]    needs root and the Debian packages slurm-wlm and munge; no systemd
#   slurm_node.sh stop FOLDER             cancels the jobs that are left, and ends the daemons that `start` started
#
# State, keys and logs lie in FOLDER. Only /etc/slurm/slurm.conf and gres.conf point to it, as the executor's job steps
# drop SLURM_CONF; a machine with a configuration of its own is left alone. All daemons listen on 127.0.0.1 only.
set -euo pipefail

etc=/etc/slurm
processors=4 # whether or not the machine has them: jobs are told apart, not measured
memory=16000

configuration() {
    cat <<CONF
ClusterName=standin
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
KillWait=2
MinJobAge=300
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
GresTypes=gpu
$(for ((node = 1; node <= nodes; node++)); do
    echo "NodeName=node$node NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((6820 + node)) CPUs=$processors" \
        "RealMemory=$memory Gres=gpu:2 State=UNKNOWN"
done)
PartitionName=standin Nodes=node[1-$nodes] Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
    if [ -e "$etc/slurm.conf" ] || [ -L "$etc/slurm.conf" ]; then
        echo "$etc/slurm.conf is there: this machine has a Slurm of its own, or one that was not stopped" >&2
        exit 1
    fi
    mkdir -p "$folder"/{state,gpus} "$etc"
    for gpu in 0 1; do mknod "$folder/gpus/gpu$gpu" c 1 3; done # what /dev/null is; Slurm counts no plain files
    configuration > "$folder/slurm.conf"
    echo "NodeName=node[1-$nodes] Name=gpu File=$folder/gpus/gpu[0-1]" > "$folder/gres.conf"
    head -c 1024 /dev/urandom > "$folder/munge.key"
    chmod 400 "$folder/munge.key"
    ln -s "$folder/slurm.conf" "$folder/gres.conf" "$etc"
    # forced: the folder may be closed to other users, and need not be open to any
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --seed-file="$folder/munge.seed" --log-file="$folder/munged.log"
    slurmctld
    for ((node = 1; node <= nodes; node++)); do
        mkdir -p "$folder/spool/node$node"
        slurmd -N "node$node"
    done
    wait_for 60 idle || { tail "$folder"/*.log >&2; exit 1; }
}

idle() { sinfo --noheader --format=%T 2> "$folder/sinfo.err" | grep -q idle; }
empty() { [ -z "$(squeue --noheader 2> "$folder/squeue.err")" ]; }
ended() { case "$(ps -o stat= -p "$pid")" in "" | Z*) ;; *) return 1 ;; esac }

wait_for() { # SECONDS COMMAND
    for ((second = 0; second < $1; second++)); do
        if "$2"; then return 0; fi
        sleep 1
    done
    return 1
}

stop() {
    if [ -e "$folder/slurmctld.pid" ]; then
        scancel --user=root --quiet || true
        wait_for 30 empty || true
    fi
    for file in "$folder"/node*.pid "$folder"/{slurmctld,munged}.pid; do
        if [ -e "$file" ]; then
            pid=$(cat "$file")
            kill "$pid" || true
            wait_for 30 ended
        fi
    done
    for name in slurm.conf gres.conf; do
        if [ "$(readlink "$etc/$name")" = "$folder/$name" ]; then rm "$etc/$name"; fi
    done
}

if [ $# -lt 2 ] || { [ "$1" != start ] && [ "$1" != stop ]; }; then
    echo "usage: $0 start FOLDER [NODES] | stop FOLDER" >&2
    exit 2
fi
folder=$(realpath -m "$2")
nodes=${3:-1}
"$1"
