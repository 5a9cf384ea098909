-- Bins in which the patient was seen to be invasively ventilated, by what was charted so far.
-- Inputs:  bins, respiratory_support, procedureevents, items
-- Output:  stay_id, bin
-- Rule:    a tube or tracheostomy charted in the bin, or last thing charted before it and not more
--          than 14 h ago; or the ventilation procedure running.
WITH charted AS (
    SELECT b.stay_id, b.bin
    FROM bins b
    SEMI JOIN respiratory_support r ON r.stay_id = b.stay_id AND r.time >= b.starts_at
        AND r.time < b.ends_at AND r.status IN ('invasive', 'tracheostomy')
), before AS (
    SELECT b.stay_id, b.bin
    FROM bins b
    ASOF JOIN respiratory_support r ON r.stay_id = b.stay_id AND r.time < b.starts_at
    WHERE r.status IN ('invasive', 'tracheostomy') AND b.starts_at - r.time <= INTERVAL 14 HOUR
), running AS (
    SELECT b.stay_id, b.bin
    FROM bins b
    JOIN procedureevents p ON p.stay_id = b.stay_id AND p.starttime < b.ends_at
        AND p.endtime > b.starts_at
    JOIN items i ON i.source = 'procedureevents' AND i.itemid = p.itemid
)
FROM charted UNION FROM before UNION FROM running
